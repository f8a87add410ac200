"""A validation's report on every class: tables, curves, and pictures of the mistakes of the highest probability."""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from utils.files import write_csv

from .plots import look, save, short

MEASURES = ("precision", "recall", "f1", "support", "roc_auc", "average_precision")
CURVES = 10  # classes in one picture, the worst ones
GRID = np.linspace(0, 1, 1001)
TICKS = (0.0001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999)


def write(meter: Any, folder: str | Path) -> dict[str, float]:
    """Write report.csv, mistakes.csv and roc.png, pr.png, threshold.png, mistakes.png of a ClassMeter that is not
    empty. Returns the means over the classes by name, macro_f1 say."""
    folder = Path(folder)
    own, rest, edges = meter.histograms()
    table = per_class(meter.value(), own, rest)
    averages = {"macro": average(table), "weighted": average(table, table[:, 3])}
    rows = [*zip(meter.classes, table, strict=True), *averages.items()]
    write_csv(folder / "report.csv", ["class", *MEASURES], ([name, *as_text(row)] for name, row in rows))

    draw_curves(meter.classes, own, rest, edges, table, folder)
    mistakes = [(i, meter.classes[true], meter.classes[label], share) for i, true, label, share in meter.mistakes()]
    pictures = [meter.picture(index) if meter.picture else (None, "") for index, *_ in mistakes]
    lines = ([*mistake, name] for mistake, (_, name) in zip(mistakes, pictures, strict=True))
    write_csv(folder / "mistakes.csv", ["index", "true", "predicted", "confidence", "picture"], lines)
    if meter.picture:
        counts = meter.value()
        draw_mistakes(mistakes, pictures, int(counts.sum() - counts.trace()), folder / "mistakes.png")
    means = {kind: zip(MEASURES, row, strict=True) for kind, row in averages.items()}
    return {f"{kind}_{name}": value for kind, row in means.items() for name, value in row if name != "support"}


def as_text(numbers: Iterable[float]) -> list[str]:
    """Numbers as text for a table."""
    return [f"{number:.10g}" for number in numbers]


def per_class(counts: np.ndarray, own: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The MEASURES of each class, float [C, 6]; nan where undefined: all of a class without samples, the areas also if
    it has all samples. The precision of a class that was never predicted is 0, as in scikit-learn.

    Args:
        counts: int [C, C], rows are true classes, columns predicted ones.
        own, rest: int [C, B], histograms of the class's probability in its own samples and in all others.
    """
    from sklearn import config_context, metrics

    table = np.full((len(counts), len(MEASURES)), np.nan)
    present = np.flatnonzero(counts.sum(axis=1))
    true, predicted = np.nonzero(counts)
    scores = metrics.precision_recall_fscore_support(
        true, predicted, labels=present, sample_weight=counts[true, predicted], zero_division=0
    )
    table[present, :3] = np.transpose(scores[:3])
    table[:, 3] = counts.sum(axis=1)
    with config_context(assume_finite=True, skip_parameter_validation=True):  # saves half of the time with 1000 classes
        for c in drawable(own, rest):
            positive, negative = np.flatnonzero(own[c]), np.flatnonzero(rest[c])
            truth = np.repeat([1, 0], [len(positive), len(negative)])
            score = np.concatenate([positive, negative])
            weight = np.concatenate([own[c, positive], rest[c, negative]])
            table[c, 4] = metrics.roc_auc_score(truth, score, sample_weight=weight)
            table[c, 5] = metrics.average_precision_score(truth, score, sample_weight=weight)
    return table


def drawable(own: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Indices of the classes that have some, but not all samples."""
    return np.flatnonzero(own.any(axis=1) & rest.any(axis=1))


def average(table: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean of each column over the classes for which it is defined; for the support the sum."""
    row = np.full(table.shape[1], np.nan)
    for column, values in enumerate(table.T):
        known = ~np.isnan(values)
        if known.any():
            row[column] = np.average(values[known], weights=None if weights is None else weights[known])
    row[3] = np.nansum(table[:, 3])
    return row


def rates(own: np.ndarray, rest: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(true positives, false positives) if samples from bin b on are classified as c, float [C, B] each."""
    true, false = (counts[:, ::-1].cumsum(axis=1, dtype=float)[:, ::-1] for counts in (own, rest))
    return true, false


def accuracy_by_threshold(own: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Accuracy of "p >= t" as the test for class c, for every bin's lowest probability t: float [C, B]."""
    true, false = rates(own, rest)
    return (true + false[:, :1] - false) / (true[:, :1] + false[:, :1])


def draw_curves(
    classes: Sequence[str], own: np.ndarray, rest: np.ndarray, edges: np.ndarray, table: np.ndarray, folder: Path
) -> None:
    """Write roc.png, pr.png and threshold.png: each class against all others, and the mean; of many classes those of
    the lowest average precision. Of two classes the second is drawn: the first one's curves say the same."""
    two = len(classes) == 2
    known = drawable(own, rest)[-1 if two else 0 :]
    if not len(known):
        return
    own, rest, table, names = own[known], rest[known], table[known], [short(classes[c]) for c in known]
    against = f"{names[0]} against {short(classes[0])}" if two else "each class against all others"
    true, false = (
        np.pad(counts, ((0, 0), (0, 1))) for counts in rates(own, rest)
    )  # the last column: nothing is classified as c
    recall, alarm, called = true / true[:, :1], false / false[:, :1], true + false
    accuracy = accuracy_by_threshold(own, rest)
    share = true[:, 0] / called[:, 0]  # of the class among all samples
    worst = table[:, 5].argsort(kind="stable")[:CURVES]
    looks = {c: look(known[c] if len(classes) <= CURVES else number) for number, c in enumerate(worst)}
    draw = functools.partial(draw_worst, looks=looks)

    square: dict[str, Any] = {"xlim": (-0.02, 1.02), "ylim": (-0.02, 1.02), "aspect": "equal"}
    texts = square | {"xlabel": "false positive rate", "ylabel": "true positive rate", "title": f"ROC: {against}"}
    chance = "chance", np.tile([0, 1], (len(known), 1))
    means = [f"{table[:, area].mean():.4f}  mean of {len(known)} classes" for area in (4, 5)]
    draw(folder / "roc.png", alarm, recall, table[:, 4], names, chance, "area under the curve", mean=means[0], **texts)
    texts = square | {"xlabel": "recall", "ylabel": "precision", "title": f"Precision and recall: {against}"}
    chance = "chance: the class's share", np.stack([share, share], axis=1)
    stairs = steps(recall, true / called.clip(min=1), (called > 0).sum(axis=1))
    draw(folder / "pr.png", *stairs, table[:, 5], names, chance, "average precision", mean=means[1], **texts)

    # The mean's best is that of one threshold for all classes; the classes' own bests have a threshold each.
    every, labels = np.vstack([accuracy, accuracy.mean(axis=0)]), [*names, f"mean of {len(known)} classes"]
    at = np.where(every == every.max(axis=1, keepdims=True), abs(edges - 0.5), 1).argmin(axis=1)
    *names, mean = [f"at {edges[best]:.2g}: {name}" for best, name in zip(at, labels, strict=True)]
    mean = f"{every[-1].max():.4f}  {mean}"
    texts = {"ylabel": "accuracy", "title": f"Accuracy by threshold: {against}"}
    texts["xlabel"] = f"threshold: least probability that counts as {short(classes[1]) if two else 'the class'}"
    # A logit scale: for a confident network nearly everything happens at the ends.
    texts |= {"xscale": "logit", "xticks": TICKS, "xticklabels": TICKS, "xlim": span(edges, accuracy)}
    chance = "always the same answer", np.maximum(chance[1], 1 - chance[1])
    x = np.broadcast_to(edges, accuracy.shape)
    best = accuracy.max(axis=1), names, chance, "best accuracy", edges
    draw(folder / "threshold.png", x, accuracy, *best, mean=mean, **texts)


def steps(recall: np.ndarray, precision: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(recall, precision) [C, B] for rising thresholds -> corners of the stairs whose area is the average precision,
    [C, 2 B - 1] each. From threshold `count` [C] on nothing is called the class: the precision before it is kept."""
    last = np.take_along_axis(precision, count[:, None] - 1, axis=1)
    precision = np.where(np.arange(precision.shape[1]) < count[:, None], precision, last)
    return recall.repeat(2, axis=1)[:, 1:], precision.repeat(2, axis=1)[:, :-1]


def span(edges: np.ndarray, accuracy: np.ndarray) -> tuple[float, float]:
    """The part of the thresholds, edges [B], in which any of the curves accuracy [C, B] changes, 0.05 to 0.95 at least
    and 1e-5 to 1 - 1e-5 at most."""
    changes = np.append(edges[1:][(np.diff(accuracy, axis=1) != 0).any(axis=0)], 0.5)
    return float(np.clip(changes.min(), 1e-5, 0.05)), float(np.clip(changes.max(), 0.95, 1 - 1e-5))


def draw_worst(
    path: Path,
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    names: list[str],
    chance: tuple[str, np.ndarray],
    heading: str,
    grid: np.ndarray = GRID,
    *,
    looks: dict[int, dict[str, Any]],
    mean: str,
    **settings: Any,
) -> None:
    """Draw the curves (x, y), float [C, B], that have a look, above the mean curve of all classes at the points `grid`.

    values, names: [C], in the legend below the heading, and `mean`, the mean curve's label. chance: what a dotted line
    is, and its height at the left and the right end, float [C, 2].
    """
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set(**settings)
    for c, style in looks.items():
        axes.plot(x[c], y[c], label=f"{values[c]:.4f}  {names[c]}", **style)
    if len(names) > 1:
        heights = np.mean([np.interp(grid, *rising(*curve)) for curve in zip(x, y, strict=True)], axis=0)
        axes.plot(grid, heights, "k", linewidth=2.5, label=mean)
    ends = np.clip(axes.get_xlim(), 0, 1)
    label, levels = chance
    for number, level in enumerate({tuple(levels[c]) for c in looks}):
        axes.plot(ends, level, ":", color="gray", linewidth=1, label="" if number else label)
    axes.minorticks_off()
    axes.grid()
    title = f"{heading}\n(the {CURVES} lowest of {len(names)} classes)" if len(names) > CURVES else heading
    figure.legend(loc="outside right upper", title=title, alignment="left")
    save(figure, path)


def rising(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve with falling or rising x -> with rising x, as np.interp needs it."""
    return (x, y) if x[0] < x[-1] else (x[::-1], y[::-1])


def draw_mistakes(
    mistakes: Sequence[tuple[Any, ...]], pictures: Sequence[tuple[Any, str]], wrong: int, path: Path
) -> None:
    """Write one picture with the mistakes (index, true class, predicted class, its probability), which are the first of
    `wrong` mistakes, given the (uint8 [3, H, W], name) of each. Without mistakes remove the file."""
    path.unlink(missing_ok=True)  # an earlier epoch's
    if not mistakes:
        return
    columns, side = min(4, len(mistakes)), 2.6  # a panel is a square of that many inches, and three lines of text
    width, height = columns * (side + 0.1) + 0.1, -(-len(mistakes) // columns) * (side + 0.8) + 0.4
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))  # one for all, in inches: one for each would take twice as long
    axes.axis("off")
    for number, ((_, true, predicted, share), (image, caption)) in enumerate(zip(mistakes, pictures, strict=True)):
        x, y = number % columns * (side + 0.1) + 0.1, height - 0.85 - number // columns * (side + 0.8)
        h, w = (side * length / max(image.shape) for length in image.shape[1:])
        axes.imshow(image.permute(1, 2, 0).numpy(), extent=(x, x + w, y - h, y))
        axes.text(x, y + 0.05, f"true: {short(true, 22)}\npredicted: {short(predicted, 22)}", fontsize=9)
        text = f"{100 * share:.1f} %, {short(caption, 28)}"
        axes.text(x, y - h - 0.05, text, va="top", fontsize=8, color="dimgray")
    axes.set(xlim=(0, width), ylim=(0, height))
    title = f"Mistakes, the highest probability first: {len(mistakes)} of {wrong:,}"
    axes.text(0.1, height - 0.1, title, va="top", fontsize=12)
    save(figure, path)
