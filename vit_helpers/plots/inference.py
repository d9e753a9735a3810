"""Figures of notebook 05: timings, speed against agreement, batch sizes."""

import numpy as np

from .shared import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PALETTE,
    PINK,
    RED,
    SKY,
    Plot,
    finish,
    new_plot,
)

FAMILY_STYLES = {
    "PyTorch": (BLUE, "o"),
    "16 bits": (GREEN, "s"),
    "captured graph": (SKY, "^"),
    "ONNX Runtime": (ORANGE, "D"),
    "int8": (RED, "P"),
    "OpenVINO": (PINK, "v"),
    "merged tokens": (BLACK, "*"),
}


def timings(first, later) -> Plot:
    """The same call, timed again and again: each point is one timing.

    Args:
        first: Milliseconds of the first calls, not warmed up.
        later: Milliseconds of the calls after them.
    """
    plot, ax = new_plot(size=(7.5, 3.4))
    count = len(first) + len(later)
    calls = np.arange(1, count + 1)
    median, high = np.median(later), np.percentile(later, 95)
    ax.plot(calls[: len(first)], first, "X", color=RED, markersize=8, label="warm-up")
    ax.plot(calls[len(first) :], later, "o", color=BLUE, label="timed")
    ax.axhline(median, color=BLACK, linewidth=1, label=f"median {median:.1f} ms")
    ax.axhline(high, color=BLACK, linewidth=1, linestyle=":", label=f"p95 {high:.1f} ms")
    ax.set_ylim(0, None)
    ax.set_xlabel("call")
    ax.set_ylabel("time of the call in ms")
    ax.legend(fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.18), frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return finish(
        plot,
        f"{count} timings of one and the same call. After {len(first)} warm-up calls they run from "
        f"≈ {min(later):.1f} to ≈ {max(later):.1f} ms, with a median of ≈ {median:.1f} ms and a "
        f"95th percentile of ≈ {high:.1f} ms.",
    )


def race_bars(table) -> Plot:
    """Median times as bars, with a line up to the 95th percentile.

    Args:
        table: A raw table of `efficiency.timing_table`.
    """
    plot, ax = new_plot(size=(7.5, 0.5 * len(table) + 1.0))
    places = np.arange(len(table))
    median, high = table["median ms"].to_numpy(), table["p95 ms"].to_numpy()
    # One hiccup of the machine must not squeeze the bars: a longer line ends in an arrowhead.
    limit = min(high.max(), 2.5 * median.max())
    ends = np.minimum(high, limit)
    ax.barh(places, median, color=SKY, label="median")
    ax.hlines(places, median, ends, color=BLACK, linewidth=2, label="up to the 95th percentile")
    ax.plot(ends[high > limit], places[high > limit], ">", color=BLACK)
    for place, end, speed in zip(places, ends, table["speed-up"], strict=True):
        ax.text(end + 0.02 * limit, place, f"{speed:.2f} x", va="center", fontsize=9)
    ax.set_yticks(places, table.index)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.15 * limit)
    ax.set_xlabel("time of one call in ms; beside it the speed-up over the first row")
    ax.legend(fontsize=8, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    words = ", ".join(f"{n} ≈ {m:.1f} ms" for n, m in zip(table.index, median, strict=True))
    return finish(plot, f"Bars of the median time of a call: {words}.")


def speed_agreement(frame) -> Plot:
    """Speed-up of each variant against its agreement with the baseline, with its interval.

    The Pareto line joins those that no other beats in both at once. A variant that agrees too
    seldom to be used is crossed out.

    Args:
        frame: A raw table of `efficiency.compare`. Variants that did not run are left out.
    """
    ran = frame[frame["status"] == "ran"]
    speed = ran["speed-up"].to_numpy(dtype=float)
    share = 100 * ran["agreement"].to_numpy(dtype=float)
    plot, ax = new_plot(size=(9, 4.6))
    low = min(99.0, share.min())
    span = 100 - low
    low, top = low - 0.12 * span, 100 + 0.12 * span
    for family, (color, marker) in FAMILY_STYLES.items():
        chosen = (ran["family"] == family).to_numpy()
        if chosen.any():
            ax.plot(speed[chosen], share[chosen], marker, color=color, label=family, markersize=9)
    for i in np.flatnonzero((ran["verdict"] != "baseline") & np.isfinite(ran["to"])):
        color = FAMILY_STYLES[ran["family"].iloc[i]][0]
        ax.hlines(share[i], ran["from"].iloc[i], ran["to"].iloc[i], color=color, linewidth=1.5)
    wrong = (ran["verdict"] == "unusable").to_numpy()
    ax.plot(speed[wrong], share[wrong], "x", color=BLACK, markersize=13)
    best = ran[ran["pareto"]].sort_values("speed-up")
    corners = best["speed-up"], 100 * best["agreement"]
    ax.plot(*corners, "--", color="0.45", linewidth=1.2, zorder=0, label="Pareto line")
    # Names in a column on the right, each joined to its point: points lie on top of one another.
    order = np.lexsort((speed, share))[::-1]
    right = max(speed.max(), np.nanmax(ran["to"])) * 1.06
    heights = np.linspace(top - 0.05 * span, low + 0.05 * span, len(order))
    for i, height in zip(order, heights, strict=True):
        color = FAMILY_STYLES[ran["family"].iloc[i]][0]
        ax.plot([speed[i], right], [share[i], height], color=color, linewidth=0.7, alpha=0.7)
        label = f"{ran.index[i]}: {speed[i]:.1f} x, {share[i]:.1f} %"
        ax.text(right, height, f" {label}", va="center", fontsize=8.5, clip_on=False)
    ax.set_xlim(min(0.9, speed.min() * 0.95), right)
    ax.set_ylim(low, top)
    ax.axvline(1, color="0.7", linewidth=1)
    ax.set_xlabel("speed-up over fp32 with eager attention")
    ax.set_ylabel("same top class as the baseline, in %")
    ax.legend(fontsize=8, ncols=5, loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    words = "; ".join(
        f"{n} ≈ {s:.2f} times as fast, agreement ≈ {a:.1f} %"
        for n, s, a in zip(ran.index, speed, share, strict=True)
    )
    line = f"The Pareto line joins ≈ {len(best)} that no other beats in both"
    return finish(plot, f"Points of speed-up against agreement with the baseline. {line}. {words}.")


def batch_sizes(table, saturated: dict[str, int]) -> Plot:
    """Time per image, images per second and memory against the batch size.

    Args:
        table: A raw table of `efficiency.sweep`.
        saturated: By variant, the batch size that is marked with a ring.
    """
    plot, axes = new_plot(1, 3, size=(11, 3.6))
    columns = {
        "ms per image": "time per image in ms",
        "images/s": "images per second",
        "memory MB": "memory for activations in MB",
    }
    styles = ("o-", "s--", "^-.", "D:")
    batches = sorted(table["batch"].unique().tolist())
    for i, (name, part) in enumerate(table.groupby("variant", sort=False)):
        for ax, column in zip(axes, columns, strict=True):
            if part[column].notna().any():
                color = PALETTE[i % len(PALETTE)]
                style = styles[i % len(styles)]
                ax.plot(part["batch"], part[column], style, color=color, label=name)
        ring = part[part["batch"] == saturated.get(name)]
        axes[1].plot(ring["batch"], ring["images/s"], "o", ms=14, mfc="none", mec=BLACK, mew=1.5)
    for ax, label in zip(axes, columns.values(), strict=True):
        ax.set_xscale("log", base=2)
        ax.set_xticks(batches, batches)
        ax.set_ylim(0, 1.08 * ax.get_ylim()[1])
        ax.set_xlabel("batch size (pictures)")
        ax.set_ylabel(label)
        ax.spines[["top", "right"]].set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    plot.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    words = "; ".join(
        f"{name} reaches at most ≈ {part['images/s'].max():.1f} images per second and comes within "
        f"5 % of that from batch ≈ {saturated[name]}"
        for name, part in table.groupby("variant", sort=False)
        if name in saturated
    )
    return finish(plot, f"Lines against batch sizes {batches[0]} to {batches[-1]}. {words}.")
