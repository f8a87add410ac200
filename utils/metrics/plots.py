"""Pictures of a run, drawn by matplotlib without a display: curves and confusion matrix."""

import itertools
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from matplotlib import font_manager, rcParams
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure  # not pyplot: it keeps every figure alive until it is closed

from utils.files import write_atomically, write_csv

# Of a confusion matrix: maximum number of classes with a number in each cell, of names on an axis, of cells on a side.
CELLS_WITH_TEXT, NAMES, CELLS = 20, 40, 250

# Class names may be Chinese, Japanese or Korean, which matplotlib's own font lacks: fonts that may be installed.
CJK = {
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Arial Unicode MS",
}
rcParams["font.family"] = ["DejaVu Sans", *CJK.intersection(font_manager.get_font_names())]


def save(figure: Figure, path: str | Path) -> None:
    """Write the figure as a PNG file that appears whole or not at all."""

    def write(file: IO[bytes]) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from")  # a box is drawn in its place
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
    axes.set(xlabel="predicted", ylabel="true")
    named = range(0, k, -(-k // NAMES))
    axes.set_xticks(named, [short(classes[c]) for c in named], rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(named, [short(classes[c]) for c in named])
    for row, column in itertools.product(range(k), repeat=2) if k <= CELLS_WITH_TEXT else ():
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", color=colour)
    label = "share of the true class" + (f", the largest of {block} x {block} cells" if block > 1 else "")
    figure.colorbar(image, label=label)
    save(figure, folder / "confusion.png")


def figure_of(count: int, width: float, height: float) -> tuple[Figure, list[Any]]:
    """(figure, axes) of `count` panels, at most four side by side; width and height are a panel's, in inches."""
    columns = min(4, count)
    lines = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    return figure, [figure.add_subplot(lines, columns, number) for number in range(1, count + 1)]


def short(text: Any, length: int = 24) -> str:
    """Text for a picture: the middle of long text is left out, and $, which begins a formula, is escaped."""
    text = str(text).encode("utf-8", "replace").decode()  # a file name may be anything
    if len(text) > length:
        text = f"{text[: length // 2]}…{text[1 - length // 2 :]}"
    return text.replace("$", r"\$")


def curves(rows: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Write one picture with a panel for the losses and one for each other measure, of training and validation.

    rows: dicts as in results.csv, one per epoch: `epoch` and numbers by name, which may be missing.
    """
    panels: dict[str, list[str]] = {}  # {measure: [names]}
    others = "epoch", "step", "lr", "train_seconds", "seconds"
    for name in dict.fromkeys(name for row in rows for name in row if name not in others):
        measure = name.removeprefix("train_").removeprefix("val_")
        panels.setdefault("loss" if measure.startswith("loss_") else measure, []).append(name)
    if not panels:
        return
    figure, places = figure_of(len(panels), width=5, height=4)
    for axes, (panel, names) in zip(places, panels.items(), strict=True):
        for name in names:
            values = [float(row.get(name) or "nan") for row in rows]
            axes.plot([int(row["epoch"]) for row in rows], values, marker=".", label=name)
        axes.set(xlabel="epoch", title=panel)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, path)


def scatter(points: np.ndarray, inside: np.ndarray, classes: Sequence[str], path: str | Path) -> None:
    """Write a picture of points [N, 2], coloured by whether each is `inside` (bool [N]); classes are the two names."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    for label, colour in ((False, "tab:blue"), (True, "tab:red")):
        x, y = points[inside == label].T
        axes.scatter(x, y, s=1, color=colour, label=f"{classes[label]}: {len(x):,}")
    axes.set(xlabel="x", ylabel="y", aspect="equal")
    axes.legend(loc="upper right", markerscale=6)
    save(figure, path)


def image(folder: Path, name: str, picture: Any) -> None:
    """Write a uint8 tensor [3, H, W] to <folder>/<name>.png."""
    from PIL import Image

    array = picture.permute(1, 2, 0).cpu().numpy()
    write_atomically(folder / f"{name}.png", lambda file: Image.fromarray(array).save(file, "PNG"), binary=True)


def report_folder(checkpoint: str | Path) -> Path:
    """A folder for the report on a checkpoint, without an earlier one's pictures: beside the checkpoint, or here where
    that is not ours to write to."""
    beside = Path(checkpoint).parent  # may be somebody else's, or an address
    folder = (beside if os.access(beside, os.W_OK) else Path()) / f"{Path(checkpoint).stem}_report"
    folder.mkdir(exist_ok=True)
    for old in [*folder.glob("val_*.png"), *folder.glob("cam_*.png")]:
        old.unlink()
    return folder
