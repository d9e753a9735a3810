"""The open-licence drawings that the offline kit is made of.

Seven emoji sets are published as npm packages by the Iconify project, each one JSON file of SVG
bodies. They are needed only to *build* the kit: the course itself reads the finished parquet
files. A build needs ``npm`` on the path (it downloads) and ``resvg-py`` (it turns SVG into
pixels).

The sets are split **by artist**. Drawings by Twitter and Mozilla are never used to train
anything, so accuracy on them tells whether a model knows a horse or merely remembers a drawing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from vit_helpers.errors import CourseError

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "artwork"


def sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class ArtSet:
    """One icon set: the exact package it comes from, who drew it, and under which licence."""

    package: str  # npm name
    version: str
    artist: str
    title: str
    licence: str
    spdx: str  # short name of the licence, https://spdx.org/licenses
    url: str  # where the artist publishes the originals
    sha256: str  # of the tarball

    @property
    def tarball(self) -> str:
        """File name that ``npm pack`` gives to the package."""
        return f"{self.package.lstrip('@').replace('/', '-')}-{self.version}.tgz"


_APACHE = ("Apache License 2.0", "Apache-2.0")
_MIT = ("MIT License", "MIT")
_CC_BY = ("Creative Commons Attribution 4.0 International", "CC-BY-4.0")
_NOTO = "https://github.com/googlefonts/noto-emoji"
_FLUENT = "https://github.com/microsoft/fluentui-emoji"

SETS: dict[str, ArtSet] = {
    "noto": ArtSet(
        "@iconify-json/noto",
        "1.2.9",
        "Google",
        "Noto Emoji",
        *_APACHE,
        _NOTO,
        "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    ),
    "noto-v1": ArtSet(
        "@iconify-json/noto-v1",
        "1.2.5",
        "Google",
        "Noto Emoji (v1)",
        *_APACHE,
        _NOTO,
        "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    ),
    "fluent-emoji": ArtSet(
        "@iconify-json/fluent-emoji",
        "1.2.7",
        "Microsoft",
        "Fluent Emoji",
        *_MIT,
        _FLUENT,
        "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
    ),
    "fluent-emoji-flat": ArtSet(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        "Microsoft",
        "Fluent Emoji Flat",
        *_MIT,
        _FLUENT,
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "emojione": ArtSet(
        "@iconify-json/emojione",
        "1.2.3",
        "Emoji One",
        "Emoji One (EmojiTwo)",
        *_CC_BY,
        "https://github.com/EmojiTwo/emojitwo",
        "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    ),
    "twemoji": ArtSet(
        "@iconify-json/twemoji",
        "1.2.5",
        "Twitter",
        "Twemoji",
        *_CC_BY,
        "https://github.com/jdecked/twemoji",
        "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    ),
    "fxemoji": ArtSet(
        "@iconify-json/fxemoji",
        "1.2.2",
        "Mozilla",
        "FxEmojis",
        *_APACHE,
        "https://github.com/mozilla/fxemoji",
        "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
    ),
}

TRAIN_SETS = ("noto", "noto-v1", "fluent-emoji", "fluent-emoji-flat", "emojione")
UNSEEN_SETS = ("twemoji", "fxemoji")

# Two sets name some drawings their own way. Left the name used everywhere in the kit, right the
# set's own name. In fxemoji the short animal names are faces ("cat"), the body is "catside".
_OWN_NAMES: dict[str, dict[str, str]] = {
    "emojione": {
        "cat-with-tears-of-joy": "cat-face-with-tears-of-joy",
        "cat-with-wry-smile": "cat-face-with-wry-smile",
        "crying-cat": "crying-cat-face",
        "grinning-cat": "smiling-cat-face-with-open-mouth",
        "grinning-cat-with-smiling-eyes": "grinning-cat-face-with-smiling-eyes",
        "kissing-cat": "kissing-cat-face-with-closed-eyes",
        "pouting-cat": "pouting-cat-face",
        "smiling-cat-with-heart-eyes": "smiling-cat-face-with-heart-eyes",
        "weary-cat": "weary-cat-face",
        "frog": "frog-face",
    },
    "fxemoji": {
        "backpack": "schoolsatchel",
        "beach-with-umbrella": "beachumbrella",
        "bullet-train": "highspeedtrainbulletnose",
        "bullseye": "directhit",
        "camel": "dromedarycamel",
        "castle": "europeancastle",
        "cat": "catside",
        "cat-face": "cat",
        "closed-umbrella": "umbrella",
        "computer-mouse": "onebuttonmouse",
        "crayon": "lowerleftcrayon",
        "curry-rice": "curryandrice",
        "dagger": "daggerknife",
        "desktop-computer": "personalcomputer",
        "dog": "dogside",
        "dog-face": "dog",
        "dove": "doveofpeace",
        "ear-of-corn": "earofmaize",
        "eggplant": "aubergine",
        "evergreen-tree": "evergreen",
        "ewe": "sheep",
        "face-screaming-in-fear": "screamfear",
        "face-with-medical-mask": "medicalmask",
        "fishing-pole": "fishingpoleandfish",
        "flashlight": "electrictorch",
        "flexed-biceps": "flexbicep",
        "floppy-disk": "floppydisk2",
        "framed-picture": "framewithpicture",
        "front-facing-baby-chick": "frontfacingchick",
        "gem-stone": "gem",
        "globe-showing-europe-africa": "europeafricaglobe",
        "goblin": "japaneseangrymask",
        "guard": "guardsman",
        "hamster": "hampster",
        "high-heeled-shoe": "heels",
        "high-voltage": "bolt",
        "hot-pepper": "chilipepper",
        "hourglass-done": "hourglass",
        "house": "housebuilding",
        "keyboard": "wiredkeyboard",
        "kitchen-knife": "hocho",
        "leopard": "leopardside",
        "locomotive": "steamlocomotive",
        "magnifying-glass-tilted-left": "leftmagnifyingglass",
        "mans-shoe": "mensshoe",
        "moai": "moyai",
        "mouse": "mouseside",
        "mouse-face": "mouse",
        "necktie": "tie",
        "paintbrush": "lowerleftpaintbrush",
        "panda": "pandaface",
        "pen": "lowerleftpen",
        "pig": "pigside",
        "pig-face": "pig",
        "pile-of-poo": "poo",
        "pizza": "sliceofpizza",
        "police-car-light": "policecarsrevolvinglight",
        "pool-8-ball": "billiards",
        "purse": "pinkwallet",
        "rabbit": "bunnyside",
        "rabbit-face": "bunny",
        "racing-car": "racecar",
        "red-paper-lantern": "izakayalantern",
        "ribbon": "bow",
        "running-shoe": "mensrunner",
        "sake": "sakebottleandcup",
        "santa-claus": "fatherchristmas",
        "scissors": "blackscissors",
        "sheaf-of-rice": "earofrice",
        "skis": "skiandskiboot",
        "smiling-face-with-sunglasses": "sunglasses",
        "sunglasses": "darksunglasses",
        "sport-utility-vehicle": "recreationalvehicle",
        "spouting-whale": "spurtingwhale",
        "studio-microphone": "studiomic",
        "sun": "sunrays",
        "t-shirt": "mansshirt",
        "telephone": "blacktelephone",
        "tennis": "tennisball",
        "tiger": "tigerside",
        "tiger-face": "tiger",
        "tokyo-tower": "toykotower",
        "two-hump-camel": "bactriancamel",
        "video-camera": "handheldvideocamera",
        "water-wave": "wave",
        "wolf": "wolfface",
        "womans-boot": "boot",
        "womans-sandal": "sandals",
        "wrapped-gift": "present",
    },
}

# Names that match in fxemoji by accident of spelling but show another thing.
_FX_DIFFERS = frozenset(("basketball", "game-die", "umbrella"))


def fetch(folder: Path = CACHE) -> dict[str, Path]:
    """Download what is missing with ``npm pack`` and check every tarball against its SHA-256.

    Args:
        folder: where the tarballs are kept (about 20 MB); it is made if it does not exist.

    Returns:
        set name -> path of its tarball.

    Raises:
        CourseError: npm is missing, the download failed, or a tarball is not the pinned one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, art in SETS.items():
        path = folder / art.tarball
        if not path.exists():
            npm = shutil.which("npm")
            if npm is None:
                raise CourseError(
                    f"Building the kit needs npm to download {art.package}; install Node.js or "
                    f"put {art.tarball} into {folder}."
                )
            with tempfile.TemporaryDirectory(dir=folder) as tmp:
                spec = f"{art.package}@{art.version}"
                run = subprocess.run(
                    [npm, "pack", "--silent", spec],
                    cwd=tmp,
                    capture_output=True,
                    encoding="utf-8",
                )
                if run.returncode:
                    raise CourseError(
                        f"npm could not download {spec}; check the connection and try again "
                        f"(npm says: {run.stderr.strip()[-200:]})."
                    )
                os.replace(Path(tmp) / art.tarball, path)
        if sha256(path) != art.sha256:
            raise CourseError(
                f"{path} is not the pinned {art.package} {art.version} (its SHA-256 differs); "
                "delete the file and build again."
            )
        paths[name] = path
    return paths


@cache
def _icons(set_name: str) -> dict:
    """The parsed ``icons.json`` of one set (downloaded and checked on first use)."""
    if set_name not in SETS:
        raise CourseError(f"There is no icon set {set_name!r}; choose one of {', '.join(SETS)}.")
    with tarfile.open(_tarballs()[set_name]) as tar:
        content = tar.extractfile("package/icons.json")
        if content is None:
            raise CourseError(f"The package of {set_name} holds no icons.json that is a file.")
        return json.load(content)


@cache
def _tarballs() -> dict[str, Path]:
    return fetch()


@cache
def names(set_name: str) -> frozenset[str]:
    """Every icon name that :func:`render` accepts for this set.

    For ``fxemoji`` these are the names of the other sets wherever its drawing shows the same
    thing (its own names run words together: ``hotbeverage``), and nothing else.
    """
    icons = _icons(set_name)
    own = set(icons["icons"]) | set(icons.get("aliases", {}))
    if set_name == "fxemoji":
        joined = {name for name in names("noto") if name.replace("-", "") in own}
        return frozenset((joined - _FX_DIFFERS) | set(_OWN_NAMES["fxemoji"]))
    return frozenset(own | set(_OWN_NAMES.get(set_name, {})))


def has(set_name: str, name: str) -> bool:
    """True if the set has a drawing of this name."""
    return name in names(set_name)


def svg(set_name: str, name: str) -> str:
    """The drawing as a complete SVG document.

    Raises:
        CourseError: the set has no such icon.
    """
    if not has(set_name, name):
        raise CourseError(
            f"The icon set {set_name!r} has no {name!r}; artwork.names({set_name!r}) lists all."
        )
    icons = _icons(set_name)
    own = _OWN_NAMES.get(set_name, {}).get(name, name)
    if set_name == "fxemoji" and own not in icons["icons"]:
        own = own.replace("-", "")
    # An alias points to a parent and may mirror or turn it; aliases can be chained.
    flip, quarter_turns = False, 0
    while own not in icons["icons"]:
        alias = icons["aliases"][own]
        flip ^= alias.get("hFlip", False)
        quarter_turns += alias.get("rotate", 0)
        own = alias["parent"]
    icon = icons["icons"][own]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    body = icon["body"]
    if flip:
        body = f'<g transform="translate({2 * left + width} 0) scale(-1 1)">{body}</g>'
    if quarter_turns % 4:
        centre = f"{left + width / 2} {top + height / 2}"
        body = f'<g transform="rotate({90 * quarter_turns} {centre})">{body}</g>'
    # A square canvas, so that every drawing can be asked for as `size` x `size`.
    side = max(width, height)
    box = f"{left - (side - width) / 2} {top - (side - height) / 2} {side} {side}"
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{box}" width="{side}" height="{side}">{body}</svg>'
    )


@lru_cache(maxsize=512)
def render(set_name: str, name: str, size: int) -> np.ndarray:
    """Draw one icon.

    Args:
        set_name: a key of :data:`SETS`.
        name: icon name, see :func:`names`.
        size: side in pixels.

    Returns:
        uint8 array of shape (size, size, 4): red, green, blue, alpha (not premultiplied).
        The array is cached and read-only; copy it before changing it.
    """
    # Imported here: only a build needs it, the course does not.
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_string=svg(set_name, name), width=size, height=size, skip_system_fonts=True
    )
    pixels = np.array(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))
    pixels.setflags(write=False)
    return pixels
