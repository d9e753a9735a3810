"""Fine-tune a classifier, judge it, and ask what its features know.

`loop.fit` is the whole loop. What it keeps beside the model is in `state` and `history`, what
another day needs in `checkpoint`, judging in `metrics`, training on cached features in `probes`.
"""

from .history import History
from .loop import SCHEDULES, fit
from .metrics import Evaluation, evaluate, most_confused, paired_difference, wilson_interval
from .probes import cache_features, few_per_class, linear_probe, train_head
from .state import OutOfMemory, parameter_groups

# Names of the first edition, and what to use now.
_GONE = {
    "HeldOut": "evaluate the test set once, with training.evaluate",
    "cls_features": "it is called training.cache_features",
    "make_schedule": "transformers.get_scheduler",
    "seconds_an_epoch": "the line that fit prints after the first epoch",
    "train_epoch": "the loop stands in training.fit",
    "train_step": "the step stands in training.fit",
}


def __getattr__(name):
    if name in _GONE:
        from ..errors import CourseError

        raise CourseError(f"training.{name} is gone; in its place: {_GONE[name]}.")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
