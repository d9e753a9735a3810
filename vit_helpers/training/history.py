"""What a training reached, epoch by epoch and step by step."""

from dataclasses import dataclass, field

from ..errors import CourseError


@dataclass
class History:
    """What happened in a training.

    Attributes:
        rows: One dictionary an epoch: losses, accuracies (0 to 1), learning rate at its start,
            images/s of the training pass, seconds of all.
        steps: One dictionary a step: its number, the loss of its batch, its learning rate.
        interrupted: Whether Ctrl-C or the stop button ended the last call of `fit`.
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

    def table(self):
        """The same for readers: rounded, accuracies in percent."""
        frame = self.to_frame()
        table = frame[["train loss", "validation loss"]].round(3)
        for name in ("train accuracy", "validation accuracy"):
            table[f"{name}, %"] = (100 * frame[name]).round(1)
        return table.assign(**{"images/s": frame["images/s"].round().astype(int)})

    def _check(self) -> None:
        if not self.rows:
            raise CourseError("The history is empty: no epoch was finished. Call fit first.")
