"""What a training reached, epoch by epoch."""

from dataclasses import dataclass, field

from .errors import CourseError


@dataclass
class History:
    """What happened in each epoch.

    Attributes:
        rows: One dictionary an epoch: losses and accuracies (0 to 1) of training and validation,
            learning rate at its start, images/s of the training pass, seconds of all.
    """

    rows: list[dict] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Number of the epoch with the highest validation accuracy; the lower loss breaks ties."""
        if not self.rows:
            raise CourseError("The history is empty: call fit first.")
        best = max(self.rows, key=lambda r: (r["validation accuracy"], -r["validation loss"]))
        return best["epoch"]

    def stopped_improving(self, patience: int | None) -> bool:
        """Whether the last `patience` epochs were all no better than the best one."""
        if patience is None or not self.rows:
            return False
        return self.rows[-1]["epoch"] - self.best_epoch >= patience

    def to_frame(self):
        """The rows as a pandas `DataFrame` of plain numbers, indexed by epoch."""
        import pandas as pd

        return pd.DataFrame(self.rows).set_index("epoch")

    def table(self):
        """The same for readers: rounded, in percent, each number marked as measured."""
        import pandas as pd

        rows = {
            row["epoch"]: {
                "train loss": measured(row["train loss"], 3),
                "validation loss": measured(row["validation loss"], 3),
                "train accuracy, %": measured(100 * row["train accuracy"]),
                "validation accuracy, %": measured(100 * row["validation accuracy"]),
                "images/s": measured(row["images/s"], 0),
            }
            for row in self.rows
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("epoch")


def measured(value: float, digits: int = 1, width: int = 6) -> str:
    """A number as text with the sign for "measured in this run": `measured(9.87)` is `≈    9.9`.

    The width is fixed, so that a table does not change its shape when a number does.
    """
    return f"≈ {value:{width}.{digits}f}"
