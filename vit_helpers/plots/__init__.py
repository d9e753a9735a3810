"""Every figure of the course: one function, one figure, which it returns.

Each carries `alt`, a sentence that says in words what it shows, as the alternative text of the
picture. One file a notebook; `shared` and `colours` for all.
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
    picture_to_patches,
    position_similarity,
    reliability,
    temperature,
    top_classes,
    vit_diagram,
)
from .colours import OPACITY, PALETTE, colour_table
from .finetune import answers, confusion, training_curves
from .inference import batch_sizes, race_bars, speed_agreement, timings
from .shared import Plot, finish, image_grid, interval_bars, percent, thumbnail
from .transfer import accuracy_by_count, confused_pairs, differences
