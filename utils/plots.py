"""Pictures of a run, drawn with matplotlib and no display: curves and confusion matrix."""

from pathlib import Path

from matplotlib.figure import Figure  # not pyplot: it keeps every figure alive until it is closed

from .files import write_atomically, write_csv


def save(figure, path):
    """Write the figure as a PNG file that appears whole or not at all."""
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=100), binary=True)


def confusion(matrix, classes, folder):
    """Write confusion.csv and confusion.png: matrix [k, k] of counts, rows are true classes, columns predicted ones."""
    folder = Path(folder)
    rows = ([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))
    write_csv(folder / "confusion.csv", ["true \\ predicted", *classes], rows)

    size = 2.5 + 0.6 * len(classes)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.subplots()
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    for row, column in ((r, c) for r in range(len(classes)) for c in range(len(classes))):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{matrix[row, column]:,}", ha="center", va="center", color=colour)
    figure.colorbar(image, label="share of the true class")
    save(figure, folder / "confusion.png")


def curves(rows, path):
    """Write one picture with a panel for the losses and one for each other measure.

    rows: list of dicts, one an epoch, as results.csv has them: `epoch` and numbers by name.
    """
    names = [name for name in rows[0] if name.endswith(("loss", "accuracy"))] if rows else []
    panels = sorted({name.split("_")[-1] for name in names}, reverse=True)
    if not panels:
        return
    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in (n for n in names if n.split("_")[-1] == panel):
            axes.plot([int(r["epoch"]) for r in rows], [float(r[name]) for r in rows], marker=".", label=name)
        axes.set(xlabel="epoch", title=panel)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, path)
