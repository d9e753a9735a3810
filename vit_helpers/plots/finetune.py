"""Figures of notebook 02: learning curves, confusion, accuracy by class, answers."""

import numpy as np

from .shared import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PALETTE,
    RED,
    SKY,
    Plot,
    as_array,
    finish,
    new_plot,
    nothing,
    whole,
)


def learning_curves(frame, best_epoch: int, test_accuracy: float | None = None) -> Plot:
    """Loss and accuracy of training and validation, epoch by epoch.

    Args:
        frame: `History.to_frame()`: the columns `train loss`, `validation loss`,
            `train accuracy`, `validation accuracy` (0 to 1), indexed by epoch.
        best_epoch: The epoch whose weights were kept.
        test_accuracy: Drawn as a level line, or `None`.
    """
    plot, (left, right) = new_plot(1, 2, size=(9, 3.4))
    for part, colour, style in (("train", ORANGE, "s--"), ("validation", BLUE, "o-")):
        left.plot(frame.index, frame[f"{part} loss"], style, color=colour, label=part)
        right.plot(frame.index, 100 * frame[f"{part} accuracy"], style, color=colour, label=part)
    if test_accuracy is not None:
        right.axhline(100 * test_accuracy, color=GREEN, linestyle=":", label="test")
    left.set_ylabel("loss (mean cross-entropy, nats)")
    right.set_ylabel("accuracy in %")
    left.set_ylim(0, 1.1 * frame[["train loss", "validation loss"]].to_numpy().max())
    right.set_ylim(0, 103)
    for ax in (left, right):
        ax.axvline(best_epoch, color="0.75", linewidth=6, zorder=0, label="kept")
        ax.set_xlabel("epoch")
        ax.set_xticks(frame.index)
        ax.set_xlim(frame.index.min() - 0.3, frame.index.max() + 0.3)
        ax.legend(fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    first, last = frame.iloc[0], frame.iloc[-1]
    test = "" if test_accuracy is None else f", test ≈ {100 * test_accuracy:.1f} %"
    return finish(
        plot,
        f"Curves over {len(frame)} epochs. Training loss from ≈ {first['train loss']:.2f} to "
        f"≈ {last['train loss']:.2f}; accuracy after the last epoch: training "
        f"≈ {100 * last['train accuracy']:.1f} %, validation "
        f"≈ {100 * last['validation accuracy']:.1f} %{test}.",
    )


def compare_histories(frames: dict) -> Plot:
    """Validation accuracy of several trainings, epoch by epoch.

    Args:
        frames: Name of the training -> `History.to_frame()`.
    """
    plot, ax = new_plot(size=(6, 3.4))
    words = []
    for i, (name, frame) in enumerate(frames.items()):
        percents = 100 * frame["validation accuracy"]
        style = ("o-", "s--", "^-.", "D:")[i % 4]
        ax.plot(frame.index, percents, style, color=PALETTE[i], label=name)
        words.append(f"{name} ≈ {percents.iloc[-1]:.1f} %")
    ax.set_xlabel("epoch")
    ax.set_ylabel("validation accuracy in %")
    ax.set_xticks(frame.index)
    ax.set_ylim(0, 103)
    ax.legend(fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    return finish(plot, f"Validation accuracy after the last epoch: {', '.join(words)}.")


def confusion(matrix, names: list[str]) -> Plot:
    """A confusion matrix: each row is a true class, each column an answer.

    Args:
        matrix: Shape (classes, classes), counts, as from `sklearn.metrics.confusion_matrix`.
        names: Class names in the order of the labels.
    """
    counts = np.asarray(matrix)
    shares = 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    plot, ax = new_plot(size=(6.4, 5.6))
    shown = ax.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    places = range(len(names))
    ax.set_xticks(places, names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(places, names)
    ax.set_xlabel("answer of the model")
    ax.set_ylabel("true class")
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "black" if shares[row, column] > 55 else "white"
        ax.text(
            column, row, counts[row, column], ha="center", va="center", color=colour, fontsize=8
        )
    plot.colorbar(shown, ax=ax, label="share of the true class in %", shrink=0.85)
    return finish(
        plot,
        f"A table of {len(names)} true classes by {len(names)} answers over {counts.sum()} "
        f"pictures. On the diagonal, the right answers: ≈ {np.trace(counts)}.",
    )


def class_accuracy(names: list[str], right, counts, intervals) -> Plot:
    """Accuracy of every class as bars, with the interval in which the true value lies.

    Args:
        names: Class names.
        right: Right answers of each class.
        counts: Pictures of each class.
        intervals: `(low, high)` of each class, 0 to 1.
    """
    percents = 100 * np.asarray(right) / np.asarray(counts)
    bounds = 100 * np.asarray(intervals)
    plot, ax = new_plot(size=(7, 3.2))
    places = np.arange(len(names))
    ax.bar(places, percents, color=SKY)
    ax.vlines(places, bounds[:, 0], bounds[:, 1], color=BLACK, linewidth=2)
    ax.set_xticks(places, names, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_ylabel("test accuracy in %")
    ax.set_ylim(0, 103)
    ax.spines[["top", "right"]].set_visible(False)
    return finish(
        plot,
        f"Bars of the accuracy of {len(names)} classes, from ≈ {percents.min():.0f} % to "
        f"≈ {percents.max():.0f} %, each with its 95 % interval.",
    )


def answers(pictures, labels, predictions, confidences, names: list[str], columns: int = 6) -> Plot:
    """Pictures with the model's answer: a tick or a cross, the confidence, and the truth.

    Args:
        pictures: PIL pictures, or tensors (3, H, W) with values 0..1.
        labels: True classes.
        predictions: The model's classes.
        confidences: Their probabilities, 0 to 1.
        names: Class names.
        columns: Pictures in a row.
    """
    pictures, labels, predictions = list(pictures), whole(labels), whole(predictions)
    if not pictures:
        return nothing("There is no such picture.")
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    plot, axes = new_plot(rows, columns, size=(1.75 * columns, 2.25 * rows), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    everything = zip(axes.flat, pictures, labels, predictions, confidences, strict=False)
    for ax, picture, label, prediction, confidence in everything:
        ax.imshow(as_array(picture))
        right = label == prediction
        text = f"{'✓' if right else '✗'} {names[prediction]} {100 * float(confidence):.0f} %"
        text += "" if right else f"\ntruth: {names[label]}"
        ax.set_title(text, fontsize=9, color=BLUE if right else RED)
    count = sum(a == b for a, b in zip(labels, predictions, strict=True))
    return finish(
        plot,
        f"≈ {len(pictures)} pictures with the model's answer and its confidence. "
        f"Right (blue, with a tick): ≈ {count}; the others are marked with an orange cross.",
    )
