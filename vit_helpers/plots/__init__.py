"""Every figure of the course: one function, one figure, which it returns.

Each figure carries `alt`, a sentence that says in words what it shows. Jupyter shows the figure
as a picture with that alternative text, also in the saved notebook and in the HTML page.
Colours: viridis and cividis for quantities, Okabe and Ito's palette for categories; both survive
the common kinds of colour blindness. One file a notebook, and `shared` for what several use.
"""

from .attention import (
    attention_by_layer,
    attention_grid,
    attention_map,
    faithfulness,
    feature_colours,
    logit_lens,
    map_table,
    sink_heads,
    token_sinks,
)
from .classify import (
    as_grid_of_patches,
    picture_to_patches,
    position_similarity,
    reliability,
    temperature,
    top_classes,
    vit_diagram,
)
from .finetune import (
    answers,
    confusion,
    training_curves,
)
from .inference import (
    batch_sizes,
    race_bars,
    speed_agreement,
    timings,
)
from .shared import (
    BLACK,
    BLUE,
    DPI,
    GREEN,
    OPACITY,
    ORANGE,
    PALETTE,
    PINK,
    RED,
    SKY,
    YELLOW,
    Plot,
    as_array,
    as_numpy,
    colour_table,
    finish,
    image_grid,
    interval_bars,
    new_plot,
    percent,
    place,
    thumbnail,
)
from .transfer import (
    accuracy_by_count,
    confused_pairs,
    differences,
)
