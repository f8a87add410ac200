"""Pictures of a run, drawn by matplotlib without a display and in one style: curves and confusion matrix."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib import rcParams
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure  # not pyplot: it keeps every figure alive until it is closed
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter

from utils.files import write_atomically, write_csv

from .fonts import USUAL, in_figure

# Of a confusion matrix: maximum number of classes with a number in each cell, of names on an axis, of cells on a side.
CELLS_WITH_TEXT, NAMES, CELLS = 20, 40, 250

# Okabe & Ito 2008, https://jfly.uni-koeln.de/color: colour-blind readers can tell them apart. Their yellow is too pale
# for lines on white, their black is for means.
COLORS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
DASHES = "-", "--", ":"

rcParams.update(
    {
        "font.family": [USUAL],
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.titlesize": 12,
        "grid.alpha": 0.3,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "lines.linewidth": 1.5,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
    }
)

# How curves are headed: a measure by its name; several that share the first word of theirs have one panel.
TITLES = {"accuracy": "accuracy (%)", "top5": "top-5 accuracy (%)", "iou": "mean IoU (%)", "lr": "learning rate"}
GROUPS = {
    "loss": "parts of the loss",
    "box": "average precision of boxes (%)",
    "mask": "average precision of masks (%)",
}
WORDS = {"ap": "AP", "ap50": "AP50", "voc_map": "VOC mAP"}


def look(number: int) -> dict[str, Any]:
    """The colour and dashes of a line, as keyword arguments of `plot`: different for 18 numbers."""
    return {"color": COLORS[number % len(COLORS)], "linestyle": DASHES[number // len(COLORS) % len(DASHES)]}


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure as a PNG file that appears whole or not at all."""

    for text in figure.findobj(Text):  # some were made before the fonts of their letters were found
        text.set_fontfamily(rcParams["font.family"])

    def write(file: IO[bytes]) -> None:
        figure.savefig(file, format="png", dpi=100, pil_kwargs={"compress_level": 1})  # 6 takes most of the time

    write_atomically(path, write, binary=True)


def confusion(matrix: np.ndarray, classes: Sequence[str], folder: str | Path) -> None:
    """Write confusion.csv and confusion.png: matrix [k, k] of counts, rows are true classes, columns predicted ones."""
    folder = Path(folder)
    rows = ([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))
    write_csv(folder / "confusion.csv", ["true \\ predicted", *classes], rows)

    k = len(classes)
    size = 3 + min(0.6 * k, 9)
    figure = Figure(figsize=(size + 1, size), layout="compressed")
    axes = figure.subplots()
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    block = -(-k // CELLS)  # more cells than this are drawn as blocks, each as dark as its darkest cell
    shares = np.maximum.reduceat(np.maximum.reduceat(shares, range(0, k, block), axis=0), range(0, k, block), axis=1)
    # Among many classes a mistake is a small share, spread thin: the root makes it visible.
    norm = PowerNorm(1 if k <= CELLS_WITH_TEXT else 0.5, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap="Blues", norm=norm, extent=(-0.5, k - 0.5, k - 0.5, -0.5))
    right, total = matrix.trace().item(), matrix.sum().item()
    title = f"{compact(right)} of {compact(total)} right, {100 * right / max(total, 1):.2f} %"
    axes.set(xlabel="predicted class", ylabel="true class", title=title)
    named = range(0, k, -(-k // NAMES))
    slant: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(named, [short(classes[c]) for c in named], **(slant if k > 3 else {}))
    axes.set_yticks(named, [short(classes[c]) for c in named])
    for row, column in itertools.product(range(k), repeat=2) if k <= CELLS_WITH_TEXT else ():
        share, color = shares[row, column], "white" if shares[row, column] > 0.5 else "black"
        text = f"{compact(matrix[row, column])}\n{100 * share:.0f} %" if matrix[row, column] else "0"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=10 if k <= 5 else 8)
    label = "share of the true class" + (f", the largest of {block} x {block} cells" if block > 1 else "")
    figure.colorbar(image, label=label)
    save(figure, folder / "confusion.png")


def compact(number: int) -> str:
    """1234 -> "1,234"; pixels may be many: 1234567 -> "1.2M"."""
    return f"{number:,}" if number < 100_000 else EngFormatter(places=1, sep="")(number)


def figure_of(count: int, width: float, height: float) -> tuple[Figure, list[Any]]:
    """(figure, axes) of `count` panels, at most four side by side; width and height are a panel's, in inches."""
    lines = -(-count // 4)
    columns = -(-count // lines)
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    return figure, [figure.add_subplot(lines, columns, number) for number in range(1, count + 1)]


def short(text: Any, length: int = 24) -> str:
    """Text for a picture: letters that no font has are escapes, the middle of long text is left out, and $, which
    begins a formula, is escaped."""
    text = in_figure(str(text))
    if len(text) > length:
        text = f"{text[: length // 2]}…{text[1 - length // 2 :]}"
    return text.replace("$", r"\$")


def curves(rows: Sequence[dict[str, Any]], monitor: str, path: str | Path) -> None:
    """Write one picture of a run's curves, training and validation in the same panel, and of its learning rate; the
    epoch that `monitor`, the measure that selects best.pth, calls the best is marked.

    rows: dicts as in results.csv, one per epoch: `epoch` and numbers by name, which may be missing.
    """
    epochs = [int(row["epoch"]) for row in rows]
    names = dict.fromkeys(name for row in rows for name in row if name not in ("epoch", "step", "lr"))
    columns = {name: np.array([float(row.get(name) or "nan") for row in rows]) for name in [*names, "lr"]}
    shown = panels(name for name, values in columns.items() if "seconds" not in name and np.isfinite(values).any())
    if not shown.keys() - {TITLES["lr"]}:
        return
    figure, places = figure_of(len(shown), width=4, height=3.3)
    title, best = Path(path).absolute().parent.name, best_of(columns.get(monitor, np.array([])), monitor)
    if best is not None:
        title += f", best epoch {epochs[best]}: {monitor} {columns[monitor][best]:.4g}"
    marker = "." if len(rows) <= 40 else ""
    for axes, (heading, lines) in zip(places, shown.items(), strict=True):
        for label, name in lines.items():
            (line,) = axes.plot(epochs, columns[name], label=label, marker=marker, **line_style(label, lines))
            if name == monitor and best is not None:
                axes.plot(epochs[best], columns[name][best], "o", color=line.get_color(), ms=9, mfc="none")
        if best is not None:
            axes.axvline(epochs[best], color="gray", linestyle=":", linewidth=1, zorder=0)
        axes.set(xlabel="epoch", title=heading)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(rows) == 1:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
        if heading == TITLES["lr"]:
            axes.set_ylim(bottom=0)
        else:
            axes.legend()
        axes.grid()
    figure.suptitle(short(title, 120), x=0.01, ha="left")
    save(figure, path)


def own_curves(curves: dict[str, dict[float, float | None]], path: str | Path) -> None:
    """Write one picture of curves {name: {x: y}} that callbacks plot, a panel each; y None is not finite."""
    figure, places = figure_of(len(curves), width=4, height=3.3)
    for axes, (name, points) in zip(places, curves.items(), strict=True):
        x, y = zip(*sorted(points.items()), strict=True)
        axes.plot(x, np.array(y, dtype=float), color=COLORS[0], marker="." if len(x) <= 40 else "")
        axes.set(title=short(name, 40))
        axes.grid()
    save(figure, path)


def rates(
    rates: np.ndarray, losses: np.ndarray, smooth: np.ndarray, found: float | None, title: str, path: str | Path
) -> None:
    """Write a picture of the losses of steps at rising learning rates, as they were and smoothed, float64 [steps] each;
    the rate that was found, if one was, is marked."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color=COLORS[0], linewidth=0.8, alpha=0.4, label="of a step")
    axes.plot(rates, smooth, color=COLORS[0], label="smoothed")
    if found:
        axes.axvline(found, color=COLORS[1], linestyle=":", label=f"suggestion, {found:.2g}")
    low, first = float(smooth.min()), float(smooth[0])
    height = max(first - low, 6 * float(np.nanmedian(np.abs(losses - smooth)))) or 1.0  # not of where it explodes
    ylim = low - 0.3 * height, first + 0.6 * height
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", title=short(title, 60), ylim=ylim)
    axes.legend()
    axes.grid()
    save(figure, path)


def panels(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Names of columns in results.csv -> {title of a panel: {label of a line: name}}."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        part = "validation" if name.startswith("val_") else "training"
        measure = name.removeprefix("train_").removeprefix("val_")
        group, _, rest = measure.partition("_")
        if rest and group in GROUPS:
            title, label = GROUPS[group], f"{WORDS.get(rest, rest)}, {part}"
        else:
            title, label = TITLES.get(measure, measure), part
        found.setdefault(title.replace("_", " "), {})[label.replace("_", " ")] = name
    return found


def line_style(label: str, labels: Iterable[str]) -> dict[str, str]:
    """The look of a line among those of a panel: of one measure training and validation have their colours; of several
    each measure has one, and training is dashed beside validation."""
    word, _, part = label.rpartition(", ")
    words, _, parts = zip(*(one.rpartition(", ") for one in labels), strict=True)
    if not word:
        return {"color": COLORS[part == "validation"]}
    number = list(dict.fromkeys(words)).index(word)
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": "--" if part == "training" and len({*parts}) > 1 else "-",
    }


def best_of(values: np.ndarray, name: str) -> int | None:
    """Where the best of the values is, the first one of several: losses are best low, all else high."""
    if not np.isfinite(values).any():
        return None
    return int(np.nanargmin(values) if name.endswith("loss") else np.nanargmax(values))


def scatter(points: np.ndarray, inside: np.ndarray, classes: Sequence[str], path: str | Path, title: str) -> None:
    """Write a picture of points [N, 2], coloured by whether each is `inside` (bool [N]); classes are the two names."""
    figure = Figure(figsize=(6, 6.3), layout="constrained")
    axes = figure.subplots()
    size = min(20, 5e5 / max(len(points), 1))  # in square points: few cover as much of the picture as many
    for label, colour in zip((False, True), COLORS, strict=False):
        x, y = points[inside == label].T
        axes.scatter(x, y, s=size, color=colour, linewidth=0, label=f"{classes[label]}: {len(x):,}")
    axes.set(xlabel="x", ylabel="y", aspect="equal", title=title)
    figure.legend(loc="outside lower center", ncols=2, markerscale=8 / size**0.5)
    save(figure, path)


def image(folder: Path, name: str, picture: Any) -> None:
    """Write a uint8 tensor [3, H, W] to <folder>/<name>.png."""
    from PIL import Image

    array = picture.permute(1, 2, 0).cpu().numpy()
    write_atomically(folder / f"{name}.png", lambda file: Image.fromarray(array).save(file, "PNG"), binary=True)
