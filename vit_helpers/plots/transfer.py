"""Figures of notebook 04: confused pairs, how many pictures a class needs, what should learn."""

import numpy as np

from .shared import BLACK, BLUE, RED, SKY, Plot, as_array, finish, new_plot, nothing


def confused_pairs(pairs: list) -> Plot:
    """The most confused classes: a mistaken picture above one of the class it was taken for.

    Args:
        pairs: `(test picture, its class, training picture, the answered class, how often)`.
    """
    if not pairs:
        return nothing("No class was taken for another.")
    plot, axes = new_plot(2, len(pairs), size=(1.9 * len(pairs), 4.6), squeeze=False)
    for column, (wrong, truth, example, answer, times) in enumerate(pairs):
        top, bottom = axes[:, column]
        top.imshow(as_array(wrong))
        top.set_title(f"{truth}\ntaken {times} x for", fontsize=9)
        bottom.imshow(as_array(example))
        bottom.set_title(f"{answer}\n(training picture)", fontsize=9)
        top.axis("off")
        bottom.axis("off")
    return finish(
        plot,
        f"≈ {len(pairs)} columns. Above, a test picture that got a wrong answer; below, a training "
        f"picture of the class it was taken for. Most frequent mistake: ≈ {pairs[0][4]} times.",
    )


def accuracy_by_count(counts: list[int], means, lows, highs, chance: float) -> Plot:
    """How accuracy grows with the number of training pictures per class.

    Args:
        counts: Pictures per class.
        means: Mean accuracy for each, 0 to 1.
        lows: Lowest of the draws.
        highs: Highest of the draws.
        chance: Accuracy of blind guessing.
    """
    means, lows, highs = (100 * np.asarray(v) for v in (means, lows, highs))
    plot, ax = new_plot(size=(6, 3.4))
    ax.fill_between(counts, lows, highs, color=SKY, alpha=0.4, label="lowest to highest draw")
    ax.plot(counts, means, "o-", color=BLUE, label="mean of the draws")
    ax.axhline(100 * chance, color=RED, linestyle="--", linewidth=1, label="chance")
    ax.set_xscale("log")
    ax.set_xticks(counts, counts)
    ax.minorticks_off()
    ax.set_xlabel("training pictures per class")
    ax.set_ylabel("validation accuracy in %")
    ax.set_ylim(0, 103)
    ax.legend(fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)
    words = ", ".join(f"{c}: ≈ {m:.1f} %" for c, m in zip(counts, means, strict=True))
    return finish(plot, f"Accuracy against pictures per class: {words}.")


def strategies(trials: dict) -> Plot:
    """What each strategy of training costs and brings: minutes against accuracy.

    Args:
        trials: Name -> `strategies.Trial`.
    """
    plot, ax = new_plot(size=(7, 3.8))
    for (name, trial), marker in zip(trials.items(), "osD^vPX*", strict=False):
        value, (low, high) = 100 * trial.accuracy, (100 * edge for edge in trial.interval)
        ax.errorbar(
            trial.seconds / 60,
            value,
            [[value - low], [high - value]],
            fmt=marker,
            color=BLUE,
            ecolor=BLACK,
            label=f"{name}: {trial.trainable:,}",
        )
    ax.set_xlim(0, 1.1 * max(trial.seconds for trial in trials.values()) / 60)
    ax.legend(fontsize=9, loc="upper left", ncols=2, title="parameters that learn")
    ax.set_ylim(0, 140)  # room for the legend
    ax.set_yticks(range(0, 101, 20))
    ax.set_xlabel("minutes of training")
    ax.set_ylabel("validation accuracy in %")
    ax.spines[["top", "right"]].set_visible(False)
    words = ", ".join(
        f"{name} ≈ {100 * t.accuracy:.1f} % in ≈ {t.seconds / 60:.2f} min"
        for name, t in trials.items()
    )
    return finish(plot, f"Accuracy against minutes of training: {words}.")
