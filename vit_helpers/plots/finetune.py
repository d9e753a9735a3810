"""Figures of notebook 02: training curves, confusion, answers."""

import numpy as np
from scipy.stats import binomtest

from .colours import BLUE, ORANGE, RED
from .shared import Plot, finish, new_grid, new_plot, nothing, show


def training_curves(losses, steps, validation_loss, validation_accuracy, pictures: int) -> Plot:
    """Loss of every training step, and what validation said after some of them.

    `steps` says after how many steps it was validated (0 is before training), `validation_loss` and
    `validation_accuracy` (0 to 1) what came of it, on so many `pictures`.
    """
    losses, steps = np.asarray(losses, dtype=float), np.asarray(steps)
    checked, shares = np.asarray(validation_loss), np.asarray(validation_accuracy)
    plot, (left, right) = new_plot(1, 2, size=(9, 3.3))
    window = max(1, len(losses) // 15)
    mean = np.convolve(losses, np.ones(window) / window, "valid")
    at_each = np.arange(1, len(losses) + 1)
    left.plot(at_each, losses, ".", color=ORANGE, alpha=0.35, label="training, one step")
    middle = np.arange(len(mean)) + (window + 1) / 2
    left.plot(middle, mean, color=ORANGE, label=f"training, mean of {window}")
    left.plot(steps, checked, "o-", color=BLUE, label="validation")
    left.set_ylim(0, 1.1 * max(checked.max(), np.quantile(losses, 0.98)))
    left.set(xlabel="training steps", ylabel="loss (mean cross-entropy)")
    left.legend(fontsize=10, frameon=False)
    correct = (shares * pictures).round().astype(int).tolist()
    edges = np.array([binomtest(c, pictures).proportion_ci(method="wilson") for c in correct])
    bars = 100 * np.abs(edges.T - shares)
    right.errorbar(steps, 100 * shares, bars, fmt="o-", color=BLUE, capsize=4)
    best = int(shares.argmax())
    words = f"best: {100 * shares[best]:.1f} %"
    at = (steps[best], 100 * edges[best][1])
    right.annotate(words, at, (0, 4), textcoords="offset points", ha="right", fontsize=10)
    right.set(xlabel="training steps", ylim=(0, 108))
    right.set_ylabel(f"validation accuracy in %\n({pictures} pictures, 95 % intervals)")
    return finish(
        plot,
        f"Left, the loss over {len(losses)} training steps: training from {losses[0]:.2f} to "
        f"{mean[-1]:.2f}, validation from {checked[0]:.2f} to {checked[-1]:.2f}. Right, the "
        f"validation accuracy with its intervals: from {100 * shares[0]:.1f} to "
        f"{100 * shares[-1]:.1f} %; {words}.",
    )


def confusion(matrix, names: list[str]) -> Plot:
    """A matrix of counts, as from `sklearn`: each row is a true class, each column an answer."""
    counts = np.asarray(matrix)
    shares = 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    plot, ax = new_plot(size=(7.5, 6.2), frame=True)
    shown = ax.imshow(shares, cmap="cividis", vmin=0, vmax=100)
    ticks = range(len(names))
    ax.set_xticks(ticks, names, fontsize=10, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(ticks, names, fontsize=10)
    ax.set(xlabel="answer of the model", ylabel="true class")
    for row, column in zip(*np.nonzero(counts), strict=True):
        style = {"color": "black" if shares[row, column] > 55 else "white", "fontsize": 10}
        ax.text(column, row, counts[row, column], ha="center", va="center", **style)
    plot.colorbar(shown, ax=ax, label="share of the true class in %", shrink=0.85)
    return finish(
        plot,
        f"A table of {len(names)} true classes by {len(names)} answers over {counts.sum()} "
        f"pictures. On the diagonal, the right answers: {np.trace(counts)}.",
    )


def answers(pictures, labels, predictions, confidences, names: list[str]) -> Plot:
    """Pictures with the model's answer: a tick or a cross, the confidence (0 to 1), and the truth.

    Pictures are PIL's or tensors (3, H, W) with values 0..1.
    """
    everything = list(zip(pictures, labels, predictions, confidences, strict=True))
    if not everything:
        return nothing("There is no such picture.")
    plot, axes = new_grid(len(everything), 6, 1.5, 2.0)
    count = 0
    for ax, (picture, label, prediction, confidence) in zip(axes.flat, everything, strict=False):
        truth, said = names[int(label)], names[int(prediction)]
        right = int(label) == int(prediction)
        text = f"{'✓' if right else '✗'} {said}\n{100 * float(confidence):.0f} %"
        text += "" if right else f", truth: {truth}"
        show(ax, picture, text, fontsize=9)
        ax.title.set_color(BLUE if right else RED)
        count += right
    return finish(
        plot,
        f"{len(everything)} pictures with the model's answer and its confidence. "
        f"Right (blue, with a tick): {count}; the others are marked with an orange cross.",
    )
