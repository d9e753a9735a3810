"""What a training reached, epoch by epoch and step by step."""

from dataclasses import dataclass, field

from ..errors import CourseError


@dataclass
class History:
    """What happened in a training.

    `rows` has a dictionary an epoch: losses, accuracies (0 to 1), learning rate at its start,
    images/s of the training pass, seconds of all. `steps` has one a step: its number, the loss of
    its batch, its learning rate. `interrupted` says whether the last call of `fit` was.
    """

    rows: list[dict] = field(default_factory=list)
    steps: list[dict] = field(default_factory=list)
    interrupted: bool = False

    @property
    def best_epoch(self) -> int:
        """The epoch with the highest validation accuracy; the lower loss breaks ties."""
        self._check()
        best = max(self.rows, key=lambda r: (r["validation accuracy"], -r["validation loss"]))
        return best["epoch"]

    def to_frame(self):
        """The rows as a pandas `DataFrame` of plain numbers, indexed by epoch."""
        import pandas as pd

        self._check()
        return pd.DataFrame(self.rows).set_index("epoch")

    def _check(self) -> None:
        if not self.rows:
            raise CourseError("The history is empty: no epoch was finished. Call fit first.")
