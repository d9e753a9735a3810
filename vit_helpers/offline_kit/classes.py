"""Which drawings stand for which class.

Three groups that share no drawing:

* :data:`CIFAR10_DESIGNS`: the ten classes of CIFAR-10 (the data twin of notebook 02);
* :data:`FLOWERS_DESIGNS`: 102 kinds of plants, fruits, vegetables and animals (the data twin of
  notebook 04). Google, Microsoft, Emoji One and Twitter drew every kind, Mozilla 77;
* :data:`DRAWN_CLASSES`: the other things that the offline model is taught to name from drawings.

Icon names are those of ``artwork.names``. Every choice was checked by eye in all sets, because
one name can show two things (``cricket`` is an insect for one artist and a bat for another).
"""

from __future__ import annotations

# Official label order of CIFAR-10, label 0 to 9.
CIFAR10_DESIGNS: dict[str, tuple[str, ...]] = {
    "airplane": (
        "airplane", "airplane-arrival", "airplane-departure", "small-airplane",
    ),
    "automobile": (
        "automobile", "oncoming-automobile", "taxi", "oncoming-taxi", "police-car",
        "oncoming-police-car", "sport-utility-vehicle", "racing-car",
    ),
    "bird": (
        "bird", "baby-chick", "front-facing-baby-chick", "hatching-chick", "chicken", "rooster",
        "duck", "dove", "eagle", "owl", "penguin", "turkey", "flamingo", "parrot", "peacock",
        "swan", "goose", "black-bird",
    ),
    "cat": (
        "cat", "cat-face", "black-cat", "grinning-cat", "grinning-cat-with-smiling-eyes",
        "cat-with-tears-of-joy", "cat-with-wry-smile", "crying-cat", "kissing-cat",
        "pouting-cat", "smiling-cat-with-heart-eyes", "weary-cat",
    ),
    "deer": (
        "deer", "moose",
    ),
    "dog": (
        "dog", "dog-face", "guide-dog", "service-dog", "poodle",
    ),
    "frog": (
        "frog",
    ),
    "horse": (
        "horse", "horse-face", "carousel-horse", "horse-racing",
    ),
    "ship": (
        "ship", "passenger-ship", "ferry", "motor-boat", "sailboat", "speedboat", "canoe",
    ),
    "truck": (
        "articulated-lorry", "delivery-truck", "pickup-truck", "fire-engine", "ambulance",
    ),
}
CIFAR10_CLASSES = tuple(CIFAR10_DESIGNS)

# Class label -> the icons that show it. Labels of the data twin are numbered in alphabetical order.
FLOWERS_DESIGNS: dict[str, tuple[str, ...]] = {
    "ant": ("ant",),
    "avocado": ("avocado",),
    "bactrian camel": ("two-hump-camel",),
    "bamboo": ("tanabata-tree",),
    "banana": ("banana",),
    "bat": ("bat",),
    "bear": ("bear",),
    "blossom": ("blossom",),
    "blowfish": ("blowfish",),
    "boar": ("boar",),
    "bouquet": ("bouquet",),
    "bug": ("bug",),
    "butterfly": ("butterfly",),
    "cactus": ("cactus",),
    "camel": ("camel",),
    "carrot": ("carrot",),
    "cherries": ("cherries",),
    "cherry blossom": ("cherry-blossom",),
    "chestnut": ("chestnut",),
    "chipmunk": ("chipmunk",),
    "cow": ("cow", "cow-face"),
    "crab": ("crab",),
    "crocodile": ("crocodile",),
    "cucumber": ("cucumber",),
    "deciduous tree": ("deciduous-tree",),
    "dolphin": ("dolphin",),
    "dragon": ("dragon", "dragon-face"),
    "ear of corn": ("ear-of-corn",),
    "eggplant": ("eggplant",),
    "elephant": ("elephant",),
    "evergreen tree": ("evergreen-tree",),
    "fallen leaf": ("fallen-leaf",),
    "fish": ("fish",),
    "fluttering leaf": ("leaf-fluttering-in-wind",),
    "four leaf clover": ("four-leaf-clover",),
    "fox": ("fox",),
    "goat": ("goat",),
    "gorilla": ("gorilla",),
    "grapes": ("grapes",),
    "green apple": ("green-apple",),
    "hamster": ("hamster",),
    "herb": ("herb",),
    "hibiscus": ("hibiscus",),
    "honeybee": ("honeybee",),
    "hot pepper": ("hot-pepper",),
    "kiwi fruit": ("kiwi-fruit",),
    "koala": ("koala",),
    "lady beetle": ("lady-beetle",),
    "lemon": ("lemon",),
    "leopard": ("leopard",),
    "lion": ("lion",),
    "lizard": ("lizard",),
    "maple leaf": ("maple-leaf",),
    "melon": ("melon",),
    "monkey": ("monkey", "monkey-face"),
    "mouse": ("mouse", "mouse-face"),
    "mushroom": ("mushroom",),
    "octopus": ("octopus",),
    "ox": ("ox",),
    "palm tree": ("palm-tree",),
    "panda": ("panda",),
    "peach": ("peach",),
    "peanuts": ("peanuts",),
    "pear": ("pear",),
    "pig": ("pig", "pig-face"),
    "pineapple": ("pineapple",),
    "potato": ("potato",),
    "pumpkin": ("jack-o-lantern",),
    "rabbit": ("rabbit", "rabbit-face"),
    "ram": ("ram",),
    "rat": ("rat",),
    "red apple": ("red-apple",),
    "rhinoceros": ("rhinoceros",),
    "rose": ("rose",),
    "rosette": ("rosette",),
    "scorpion": ("scorpion",),
    "seedling": ("seedling",),
    "shamrock": ("shamrock",),
    "shark": ("shark",),
    "sheaf of rice": ("sheaf-of-rice",),
    "sheep": ("ewe",),
    "shrimp": ("shrimp",),
    "snail": ("snail",),
    "snake": ("snake",),
    "spider": ("spider",),
    "spiral shell": ("spiral-shell",),
    "squid": ("squid",),
    "strawberry": ("strawberry",),
    "sunflower": ("sunflower",),
    "sweet potato": ("roasted-sweet-potato",),
    "tangerine": ("tangerine",),
    "tiger": ("tiger", "tiger-face"),
    "tomato": ("tomato",),
    "tropical fish": ("tropical-fish",),
    "tulip": ("tulip",),
    "turtle": ("turtle",),
    "unicorn": ("unicorn",),
    "water buffalo": ("water-buffalo",),
    "watermelon": ("watermelon",),
    "whale": ("whale", "spouting-whale"),
    "wilted flower": ("wilted-flower",),
    "wolf": ("wolf",),
}
FLOWERS_CLASSES = tuple(FLOWERS_DESIGNS)

# One icon each; in twemoji and in at least three of artwork.TRAIN_SETS.
DRAWN_CLASSES: tuple[str, ...] = (
    "accordion", "aerial-tramway", "alien", "alien-monster", "anchor", "artist-palette",
    "baby-bottle", "backpack", "baguette-bread", "balloon", "barber-pole", "basketball",
    "bathtub", "beer-mug", "bell", "bicycle", "bikini", "billed-cap", "birthday-cake", "bomb",
    "bone", "bottle-with-popping-cork", "bow-and-arrow", "bowling", "boxing-glove", "brain",
    "bridge-at-night", "broccoli", "bubble-tea", "bucket", "bullet-train", "bullseye", "bus",
    "camera", "candle", "castle", "chair", "cheese-wedge", "chocolate-bar", "christmas-tree",
    "church", "circus-tent", "closed-mailbox-with-raised-flag", "clown-face", "cocktail-glass",
    "coconut", "cookie", "cowboy-hat-face", "croissant", "crown", "cupcake", "desktop-computer",
    "doughnut", "dress", "drum", "ear", "eye", "face-screaming-in-fear", "ferris-wheel", "fire",
    "fishing-pole", "flashlight", "flexed-biceps", "flying-saucer", "footprints", "fountain",
    "french-fries", "fuel-pump", "game-die", "garlic", "gear", "gem-stone", "ghost", "giraffe",
    "glasses", "globe-showing-americas", "gloves", "graduation-cap", "green-salad", "guard",
    "guitar", "hamburger", "hammer", "headphone", "hedgehog", "helicopter", "high-heeled-shoe",
    "high-voltage", "hippopotamus", "honey-pot", "hot-beverage", "hot-dog", "hourglass-done",
    "ice-cream", "japanese-castle", "jellyfish", "kangaroo", "key", "kimono", "kite", "ladder",
    "light-bulb", "lipstick", "lobster", "locked", "locomotive", "lollipop", "magnet",
    "magnifying-glass-tilted-left", "megaphone", "metro", "microscope", "moai", "mosque",
    "motorcycle", "mount-fuji", "musical-keyboard", "package", "paintbrush", "pancakes",
    "party-popper", "pencil", "person-surfing", "ping-pong", "pizza", "pool-8-ball", "popcorn",
    "potted-plant", "poultry-leg", "pretzel", "puzzle-piece", "rainbow", "red-paper-lantern",
    "ring", "ringed-planet", "robot", "rocket", "roller-coaster", "running-shoe", "santa-claus",
    "satellite-antenna", "sauropod", "saxophone", "scarf", "scissors", "shield",
    "shopping-cart", "skull", "sloth", "smiling-face-with-sunglasses", "snowboarder",
    "snowflake", "snowman", "soccer-ball", "socks", "spaghetti", "stadium", "statue-of-liberty",
    "steaming-bowl", "stethoscope", "sunglasses", "sushi", "syringe", "t-rex", "t-shirt",
    "taco", "takeout-box", "teapot", "teddy-bear", "telephone", "television", "tent",
    "test-tube", "thumbs-up", "toilet", "tokyo-tower", "top-hat", "tornado", "tractor",
    "trophy", "umbrella", "umbrella-on-ground", "vertical-traffic-light", "video-game",
    "violin", "volcano", "waffle", "wastebasket", "watch", "wine-glass", "womans-boot",
    "wrapped-gift", "wrench", "zebra",
)

# Icon names that do not read well once their hyphens are gone.
_READABLE = {
    "billed-cap": "cap",
    "bottle-with-popping-cork": "champagne bottle",
    "closed-mailbox-with-raised-flag": "mailbox",
    "face-screaming-in-fear": "screaming face",
    "globe-showing-americas": "globe",
    "high-voltage": "lightning bolt",
    "hourglass-done": "hourglass",
    "locked": "padlock",
    "magnifying-glass-tilted-left": "magnifying glass",
    "moai": "stone head",
    "person-surfing": "surfer",
    "pool-8-ball": "billiard ball",
    "steaming-bowl": "noodle soup",
    "t-rex": "T. rex",
    "umbrella-on-ground": "beach umbrella",
    "vertical-traffic-light": "traffic light",
    "video-game": "game controller",
    "womans-boot": "boot",
}


def readable(icon: str) -> str:
    """The label that a reader sees for an icon name: ``hot-beverage`` -> ``hot beverage``."""
    return _READABLE.get(icon, icon.replace("-", " "))


# What the offline model can name, label 0 to N - 1: CIFAR-10 first, then the drawings.
MODEL_LABELS: tuple[str, ...] = CIFAR10_CLASSES + tuple(readable(icon) for icon in DRAWN_CLASSES)
