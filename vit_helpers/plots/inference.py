"""Figures of notebook 05: timings, races, speed against agreement, batch sizes."""

import numpy as np
from matplotlib.patheffects import withStroke

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
    """Speed-up of each engine against its agreement with the baseline, with both intervals.

    `frame` comes from `efficiency.compare`. The steps are the front: no engine on them is beaten in
    speed and agreement at once. An engine that agrees too seldom to be used is crossed out.
    """
    ran = frame[frame["not here"] == ""]
    speed, share = ran["speed-up"].to_numpy(float), 100 * ran["agreement"].to_numpy(float)
    plot, ax = new_plot(size=(8.5, 5))
    styles = [FORMAT_STYLES[_format(row)] for row in ran["computes in"]]
    for x, y, (color, marker), (_, row) in zip(speed, share, styles, ran.iterrows(), strict=True):
        across = [[max(0.0, x - row["from"])], [max(0.0, row["to"] - x)]]
        up = [[y - 100 * row["agreement from"]], [100 * row["agreement to"] - y]]
        faint = {"color": color, "alpha": 0.35, "linewidth": 1.2}
        ax.errorbar(x, y, up, across, fmt="none", ecolor=color, **faint)
        ax.plot(x, y, marker, color=color, markersize=8)
        if row["verdict"] == "unusable":
            ax.plot(x, y, "x", color=BLACK, markersize=13)
    best = ran[ran["pareto"]].sort_values("speed-up")
    # Up to the speed of an engine on the front, its agreement can be had.
    corners = (
        np.concatenate([[0], best["speed-up"]]),
        100 * np.concatenate([best["agreement"].iloc[:1], best["agreement"]]),
    )
    ax.plot(*corners, drawstyle="steps-pre", color="0.5", linewidth=1.2, zorder=0)
    low = min(98.0, 100 * ran["agreement from"].min())
    ax.set_ylim(low - 0.06 * (100 - low), 100 + 0.4 * (100 - low))
    ax.set_yticks([tick for tick in ax.get_yticks() if low <= tick <= 100])
    ax.set_xlim(min(0.85, 0.95 * np.nanmin(ran["from"])), 1.12 * np.nanmax(ran["to"]))
    ax.set_xlabel(f"speed-up over {ran.index[0]}")
    ax.set_ylabel("same top class as the baseline, in %")
    for name, style in FORMAT_STYLES.items():
        if style in styles:
            ax.plot([], [], style[1], color=style[0], label=name)
    ax.plot([], [], color="0.5", label="front")
    ax.legend(fontsize=10, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    _label_points(plot, ax, ran.index, speed, share, [color for color, _ in styles])
    words = "; ".join(
        f"{n} {s:.2f} times as fast, agreement {a:.1f} %"
        for n, s, a in zip(ran.index, speed, share, strict=True)
    )
    front = ", ".join(best.index)
    alt = f"Points of speed-up against agreement with the baseline. On the front: {front}. {words}."
    return finish(plot, alt)


def _format(computes_in: str) -> str:
    if "int8" in computes_in:
        return "int8"
    return "16 bits" if "16" in computes_in else "fp32"


def _label_points(plot, ax, names, x, y, colors) -> None:
    """Write each name beside its point, where it covers neither a point nor another name."""
    plot.draw_without_rendering()
    plot.set_layout_engine("none")  # names beside the axes would move them once more
    points = ax.transData.transform(np.column_stack([x, y]))
    scale = plot.dpi / 72
    taken = [(px - 5 * scale, py - 5 * scale, px + 5 * scale, py + 5 * scale) for px, py in points]
    inside = ax.get_window_extent()
    for i in np.argsort(-x):
        style = {"textcoords": "offset points", "va": "center", "fontsize": 9.5, "color": colors[i]}
        style["path_effects"] = [withStroke(linewidth=2.5, foreground="white")]
        best: tuple = ()  # how much is covered, the text, its edges, and where it stands
        for right, up in _offsets():
            side = "left" if right > 0 else "right" if right < 0 else "center"
            text = ax.annotate(names[i], (x[i], y[i]), (right, up), ha=side, **style)
            edges = text.get_window_extent().extents
            outside = edges[0] < inside.x0 or edges[2] > inside.x1 + 60 * scale
            outside = outside or edges[1] < inside.y0 or edges[3] > inside.y1
            covered = sum(_overlap(edges, other) for other in taken) + 1e6 * outside
            if not best or covered < best[0]:
                if best:
                    best[1].remove()
                best = (covered, text, edges, right, up)
            else:
                text.remove()
            if covered == 0:
                break
        taken.append(best[2])
        if np.hypot(best[3], best[4]) > 16:  # a short line from a name that had to move away
            to = (best[3], best[4] - np.sign(best[4]) * 5)
            line = {"arrowstyle": "-", "color": colors[i], "linewidth": 0.6}
            ax.annotate("", (x[i], y[i]), to, textcoords="offset points", arrowprops=line)


def _offsets():
    """Where a name may stand, in points from its point, near it first."""
    yield from ((7, 9), (-7, 9), (7, -9), (-7, -9), (0, 12), (0, -12), (10, 0), (-10, 0))
    for up in range(18, 110, 7):
        for right in (0, 8, -8):
            yield from ((right, up), (right, -up))


def _overlap(a, b) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


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
