"""Fine-tune a classifier, judge it, and ask what its features know.

`loop.fit` is the whole loop. What it keeps beside the model is in `state` and `history`, what
another day needs in `checkpoint`, judging in `metrics`, training on cached features in `probes`.
"""

from ..errors import old_names
from .history import History
from .loop import fit
from .metrics import Evaluation, evaluate, paired_difference, wilson_interval
from .probes import cache_features, few_per_class, linear_probe, train_head
from .state import SCHEDULES, OutOfMemory, parameter_groups

__getattr__ = old_names(__name__)
