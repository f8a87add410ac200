"""The picture of a model's layers: activations, gradients, and the units that are dead or saturated."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from utils.metrics.plots import COLORS, NAMES, save, short

ABOVE: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 3, "borderaxespad": 0}


def draw(layers: Sequence[Any], path: Path) -> None:
    """Write a picture of measured layers, see layers.Layer, in the order in which they compute."""
    count = max(len(layers), 1)
    figure = Figure(figsize=(min(7 + 0.12 * count, 16), 8.5), layout="constrained")
    *lines, bars = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    for axes, name in zip(lines, ("activations", "gradients"), strict=True):
        spread(axes, [getattr(layer, name) for layer in layers], name)
    for name, label, color in (("dead", "ReLU: never above 0", 1), ("saturated", "sigmoid, tanh: at its ends", 4)):
        shares = np.array([getattr(layer, name) for layer in layers], dtype=float)
        known = np.isfinite(shares).nonzero()[0]
        if len(known):
            bars.bar(known, 100 * shares[known], color=COLORS[color], label=label)
            bars.plot(known, 0 * known, "|", color=COLORS[color], ms=8)  # shows where there is one, of 0 %, too
            bars.legend(**ABOVE)
    bars.set(ylim=(0, 100), ylabel="% of the units", title="dead and saturated units", xlim=(-0.7, count - 0.3))
    shown = range(0, len(layers), -(-count // NAMES))
    slant: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor", "fontsize": 8}
    bars.set_xticks(shown, [ending(layers[place].name) for place in shown], **slant)
    bars.grid(axis="y")
    save(figure, path)


def ending(name: str, length: int = 24) -> str:
    """The end of a layer's name, which tells more than its beginning."""
    return short(name if len(name) <= length else f"…{name[1 - length :]}", length)


def spread(axes: Any, sums: Sequence[Any], name: str) -> None:
    """Draw mean and standard deviation of every layer, of its layers.Sums, on a logarithmic scale."""
    stds, means = (np.array([getattr(one, kind) for one in sums], dtype=float) for kind in ("std", "mean"))
    known = np.isfinite(stds) & (stds > 0)  # 0 has no logarithm
    axes.plot(np.where(known, stds, np.nan), marker=".", color=COLORS[0], label="standard deviation")
    axes.plot(np.abs(means), "x", color=COLORS[1], ms=4, label="|mean|")
    bad = [place for place, one in enumerate(sums) if not one.finite]
    if bad:
        axes.axvspan(bad[0] - 0.5, bad[-1] + 0.5, color=COLORS[3], alpha=0.3, linewidth=0, label="nan or inf")
    axes.set(yscale="log", title=f"{name}, layer by layer")
    if known.any():  # a mean of almost 0, as behind BatchNorm, would flatten all else
        axes.set_ylim(bottom=stds[known].min() / 30, top=3 * max(stds[known].max(), np.nanmax(np.abs(means[known]))))
    axes.grid(axis="y")
    axes.legend(**ABOVE)
