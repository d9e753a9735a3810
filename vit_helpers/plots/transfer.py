"""Figures of notebook 04: confused pairs, how many pictures a class needs, paired differences."""

import numpy as np

from .colours import BLACK, BLUE, RED, SKY
from .shared import Plot, finish, new_plot, nothing, show


def confused_pairs(pairs: list) -> Plot:
    """The most confused classes: a mistaken picture above one of the class it was taken for.

    Each is `(test picture, its class, training picture, the answered class, how often)`.
    """
    if not pairs:
        return nothing("No class was taken for another.")
    plot, axes = new_plot(2, len(pairs), size=(1.8 * len(pairs), 4.7), squeeze=False)
    for (top, bottom), (wrong, truth, example, answer, times) in zip(axes.T, pairs, strict=True):
        show(top, wrong, f"{truth}\ntaken {times} x for", fontsize=9)
        show(bottom, example, f"{answer}\n(training picture)", fontsize=9)
    return finish(
        plot,
        f"{len(pairs)} columns. Above, a test picture that got a wrong answer; below, a training "
        f"picture of the class it was taken for. Most frequent mistake: {pairs[0][4]} times.",
    )


def accuracy_by_count(counts: list[int], means, lows, highs, chance: float) -> Plot:
    """How accuracy grows with the number of training pictures per class.

    `means`, `lows` and `highs` are the mean, lowest and highest accuracy of several draws for each
    count, 0 to 1; `chance` is that of blind guessing.
    """
    means, lows, highs = (100 * np.asarray(v) for v in (means, lows, highs))
    plot, ax = new_plot(size=(7, 3.6))
    ax.fill_between(counts, lows, highs, color=SKY, alpha=0.4, label="lowest to highest draw")
    ax.plot(counts, means, "o-", color=BLUE, label="mean of the draws")
    for count, mean, high in zip(counts, means, highs, strict=True):
        at = (count, high)
        ax.annotate(f"{mean:.0f} %", at, (0, 6), textcoords="offset points", ha="center")
    ax.axhline(100 * chance, color=RED, linestyle="--", linewidth=1)
    ax.text(counts[0], 100 * chance + 1, f"chance {100 * chance:.0f} %", color=RED)
    ax.set_xscale("log")
    ax.set_xticks(counts, counts)
    ax.minorticks_off()
    ax.set(xlabel="training pictures per class", ylabel="validation accuracy in %")
    ax.set_ylim(0, min(103, highs.max() + 20))
    ax.legend(fontsize=10, frameon=False, loc="lower right", bbox_to_anchor=(1, 0.08))
    words = ", ".join(f"{c}: {m:.1f} %" for c, m in zip(counts, means, strict=True))
    return finish(plot, f"Accuracy against pictures per class: {words}.")


def differences(table, against: str) -> Plot:
    """How far each of several trainings is from another one, with its interval and a verdict.

    `table` has a row each and the columns `difference from the probe, points`, `95 % from`,
    `95 % to`, `accuracy, %` and `verdict`; `against` says in words what they are compared with.
    """
    plot, ax = new_plot(size=(8, 0.55 * len(table) + 1.1))
    colours = {"better": BLUE, "worse": RED, "cannot tell": "0.45"}
    low, high = min(table["95 % from"].min(), 0), max(table["95 % to"].max(), 0)
    span, words = high - low, []
    for row, (name, line) in enumerate(table.iterrows()):
        colour, value = colours[line["verdict"]], line["difference from the probe, points"]
        ax.hlines(row, line["95 % from"], line["95 % to"], color=colour, linewidth=2.5)
        ax.plot(value, row, "o", color=colour, markersize=8)
        text = f"{line['accuracy, %']:.1f} %, {value:+.1f} points: {line['verdict']}"
        ax.text(high + 0.04 * span, row, text, va="center", fontsize=10, color=colour)
        words.append(f"{name} {text}")
    ax.axvline(0, color=BLACK, linewidth=1)
    ax.set_yticks(range(len(table)), list(table.index), fontsize=10)
    ax.set(ylim=(len(table) - 0.5, -0.5), xlim=(low - 0.03 * span, high + 0.02 * span))
    ax.set_xlabel(f"points above {against}; lines are 95 % intervals")
    return finish(plot, f"Differences from {against}: {'; '.join(words)}.")
