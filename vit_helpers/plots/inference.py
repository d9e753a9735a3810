"""Figures of notebook 05: timings, races, speed against agreement, batch sizes."""

import numpy as np

from .colours import BLACK, BLUE, GREEN, PALETTE, RED, SKY
from .shared import Plot, finish, new_plot

# Colour and marker by the fastest number format of an engine.
FORMAT_STYLES = {"fp32": (BLUE, "o"), "16 bits": (GREEN, "s"), "int8": (RED, "D")}


def timings(first, later) -> Plot:
    """The same call, timed again and again, in ms: the first calls to warm up, and those after."""
    plot, ax = new_plot(size=(8, 3.2))
    count = len(first) + len(later)
    calls = np.arange(1, count + 1)
    median, high = np.median(later), np.percentile(later, 95)
    ax.plot(calls[: len(first)], first, "X", color=RED, markersize=8, label="warm-up")
    ax.plot(calls[len(first) :], later, "o", color=BLUE, label="timed")
    for value, name, style in ((median, "median", "-"), (high, "p95", ":")):
        ax.axhline(value, color=BLACK, linewidth=1, linestyle=style)
        ax.text(count + 1, value, f" {name} {value:.1f} ms", va="center", fontsize=10)
    ax.set(xlim=(0, count + 1), ylim=(0, 1.1 * max(max(first), max(later))))
    ax.set(xlabel="call", ylabel="time of the call in ms")
    ax.legend(fontsize=10, ncols=2, loc="lower right", frameon=False)
    return finish(
        plot,
        f"{count} timings of one and the same call. After {len(first)} warm-up calls they run from "
        f"{min(later):.1f} to {max(later):.1f} ms, with a median of {median:.1f} ms and a 95th "
        f"percentile of {high:.1f} ms.",
    )


def race_bars(table) -> Plot:
    """Median times as bars, from `efficiency.timing_table`; beside each its speed-up."""
    plot, ax = new_plot(size=(8, 0.42 * len(table) + 0.9))
    rows, median = np.arange(len(table)), table["median ms"].to_numpy()
    ax.barh(rows, median, color=SKY, height=0.7)
    for row, (_, line) in enumerate(table.iterrows()):
        label = f"{line['median ms']:.1f} ms"
        if line["verdict"] != "baseline":
            label += f"   {line['speed-up']:.2f}x ({line['from']:.2f} to {line['to']:.2f})"
        ax.text(median[row] + 0.01 * median.max(), row, label, va="center", fontsize=10)
    ax.set_yticks(rows, table.index, fontsize=10)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.45 * median.max())
    ax.set_xlabel("median time of a call in ms; speed-up over the first row, with its interval")
    words = ", ".join(f"{n} {m:.1f} ms" for n, m in zip(table.index, median, strict=True))
    return finish(plot, f"Bars of the median time of a call: {words}.")


def speed_agreement(frame) -> Plot:
    """Each engine in a row: its speed-up on the left, its agreement on the right, with intervals.

    `frame` comes from `efficiency.compare`. Names of the front are bold: no other engine is better
    in one without being worse in the other. One that agrees too seldom to be used is crossed out.
    """
    ran = frame[frame["not here"] == ""]
    rows = np.arange(len(ran))
    styles = [FORMAT_STYLES[_format(row)] for row in ran["computes in"]]
    plot, axes = new_plot(1, 2, size=(8.5, 0.36 * len(ran) + 1.2), sharey=True)
    for ax, of, ends, scale in zip(
        axes, ("speed-up", "agreement"), ("", "agreement "), (1, 100), strict=True
    ):
        value, low, high = (
            scale * ran[name].to_numpy(float) for name in (of, f"{ends}from", f"{ends}to")
        )
        for row, (color, marker) in enumerate(styles):
            ax.hlines(row, low[row], high[row], color=color, linewidth=2.5, alpha=0.45)
            ax.plot(value[row], row, marker, color=color, markersize=7)
            if ran["verdict"].iloc[row] == "unusable":
                ax.plot(value[row], row, "x", color=BLACK, markersize=13)
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
    axes[0].axvline(1, color=BLACK, linewidth=1)
    axes[0].set_xlabel(f"speed-up over {ran.index[0]}")
    axes[1].set_xlabel("same answer as the baseline, in %")
    axes[0].set_yticks(rows, list(ran.index), fontsize=10)
    axes[0].set_ylim(len(ran) - 0.5, -0.5)
    for label, best in zip(axes[0].get_yticklabels(), ran["pareto"], strict=True):
        label.set_fontweight("bold" if best else "normal")
    for name, (color, marker) in FORMAT_STYLES.items():
        if (color, marker) in styles:
            axes[0].plot([], [], marker, color=color, label=name)
    plot.legend(fontsize=10, ncols=3, loc="outside upper center", frameon=False)
    words = "; ".join(
        f"{name} {row['speed-up']:.2f} times as fast, agreement {100 * row['agreement']:.1f} %"
        for name, row in ran.iterrows()
    )
    front = ", ".join(ran.index[ran["pareto"].astype(bool)])
    return finish(
        plot, f"A row for each engine, with two intervals. On the front: {front}. {words}."
    )


def _format(computes_in: str) -> str:
    if "int8" in computes_in:
        return "int8"
    return "16 bits" if "16" in computes_in else "fp32"


def batch_sizes(table) -> Plot:
    """Pictures a second against the batch size; the ring is the smallest size near the best.

    `table` has the columns `engine`, `batch` and `images/s`.
    """
    plot, ax = new_plot(size=(8, 3.6))
    styles, words = ("o-", "s--", "^-.", "D:"), []
    batches = sorted(table["batch"].unique().tolist())
    for i, (name, part) in enumerate(table.groupby("engine", sort=False)):
        color = PALETTE[i % len(PALETTE)]
        batch, rate = part["batch"].to_numpy(), part["images/s"].to_numpy()
        near = int(np.argmax(rate >= 0.95 * rate.max()))
        ax.plot(batch, rate, styles[i % len(styles)], color=color)
        ax.plot(batch[near], rate[near], "o", ms=14, mfc="none", mec=color, mew=1.5)
        style = {"textcoords": "offset points", "va": "center", "color": color, "fontsize": 10}
        ax.annotate(f" {name}", (batch[-1], rate[-1]), (8, 0), annotation_clip=False, **style)
        words.append(
            f"{name} reaches at most {rate.max():.1f} pictures a second and comes within 5 % of "
            f"that from batch {batch[near]}"
        )
    ax.set_xscale("log", base=2)
    ax.set_xticks(batches, batches)
    ax.set(xlabel="batch size (pictures)", ylabel="pictures a second")
    ax.set_ylim(0, 1.12 * table["images/s"].max())
    return finish(
        plot, f"Lines against batch sizes {batches[0]} to {batches[-1]}. {'; '.join(words)}."
    )
