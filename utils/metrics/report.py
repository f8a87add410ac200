"""A validation's report on every class: tables, curves, and pictures of the most confident mistakes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from utils.files import write_csv

from .plots import figure_of, save, short

MEASURES = ("precision", "recall", "f1", "support", "roc_auc", "average_precision")
CURVES = 10  # classes in one picture, the worst ones
GRID = np.linspace(0, 1, 1001)
TICKS = (0.0001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999)


def write(meter: Any, folder: str | Path) -> None:
    """Write report.csv, measures.csv, mistakes.csv and roc.png, pr.png, threshold.png, mistakes.png of a ClassMeter
    that is not empty."""
    folder = Path(folder)
    own, rest, edges = meter.histograms()
    table = per_class(meter.value(), own, rest)
    averages = {"macro": average(table), "weighted": average(table, table[:, 3])}
    rows = [*zip(meter.classes, table, strict=True), *averages.items()]
    write_csv(folder / "report.csv", ["class", *MEASURES], ([name, *as_text(row)] for name, row in rows))

    means = meter.summary()
    for kind, row in averages.items():
        means |= {f"{kind}_{name}": value for name, value in zip(MEASURES, row, strict=True) if name != "support"}
    write_csv(folder / "measures.csv", ["name", "value"], zip(means, as_text(means.values()), strict=True))

    draw_curves(meter.classes, own, rest, edges, table, folder)
    mistakes = [(i, meter.classes[true], meter.classes[label], share) for i, true, label, share in meter.mistakes()]
    pictures = [meter.picture(index) if meter.picture else (None, "") for index, *_ in mistakes]
    lines = ([*mistake, name] for mistake, (_, name) in zip(mistakes, pictures, strict=True))
    write_csv(folder / "mistakes.csv", ["index", "true", "predicted", "confidence", "picture"], lines)
    if meter.picture:
        draw_mistakes(mistakes, pictures, folder / "mistakes.png")


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
    """Write roc.png, pr.png and threshold.png: each class against all others, the worst ones and the mean."""
    chosen = drawable(own, rest)
    if not len(chosen):
        return
    own, rest, names = own[chosen], rest[chosen], [short(classes[c]) for c in chosen]
    true, false = (
        np.pad(counts, ((0, 0), (0, 1))) for counts in rates(own, rest)
    )  # the last column: nothing is classified as c
    recall, alarm, called = true / true[:, :1], false / false[:, :1], true + false
    precision = np.divide(true, called, out=np.ones_like(called), where=called > 0)
    accuracy = accuracy_by_threshold(own, rest)
    at = [f"{edges[c]:.2g}" for c in accuracy.argmax(axis=1)]

    texts: dict[str, Any] = {"xlabel": "false positive rate", "ylabel": "true positive rate", "title": "ROC: area"}
    draw_worst(folder / "roc.png", alarm, recall, table[chosen, 4], names, **texts)
    texts = {"xlabel": "recall", "ylabel": "precision", "title": "precision and recall: average precision"}
    draw_worst(folder / "pr.png", recall, precision, table[chosen, 5], names, **texts)
    texts = {"xlabel": "threshold", "ylabel": "accuracy", "title": "one class or not, by threshold: best accuracy"}
    # A logit scale: for a confident network nearly everything happens at the ends.
    texts |= {"xscale": "logit", "xlim": (1e-5, 1 - 1e-5), "xticks": TICKS, "xticklabels": TICKS}
    names = [f"at {t}  {name}" for t, name in zip(at, names, strict=True)]
    x = np.broadcast_to(edges, accuracy.shape)
    draw_worst(folder / "threshold.png", x, accuracy, accuracy.max(axis=1), names, grid=edges, **texts)


def draw_worst(
    path: Path,
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    names: list[str],
    grid: np.ndarray = GRID,
    **settings: Any,
) -> None:
    """Draw the curves (x, y), float [C, B], with the lowest of `values`, and the mean curve at the points `grid`."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for c in values.argsort(kind="stable")[:CURVES]:
        axes.plot(x[c], y[c], linewidth=1.2, label=f"{values[c]:.4f}  {names[c]}")
    if len(names) > 2:  # with two classes one curve mirrors the other
        mean = np.mean([np.interp(grid, *rising(*curve)) for curve in zip(x, y, strict=True)], axis=0)
        axes.plot(grid, mean, "k--", linewidth=2, label=f"{values.mean():.4f}  mean of {len(names)} classes")
    axes.set(**settings)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    title = f"the {CURVES} worst of {len(names)} classes" if len(names) > CURVES else None
    figure.legend(loc="outside right upper", title=title, frameon=False)
    save(figure, path)


def rising(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A curve with falling or rising x -> with rising x, as np.interp needs it."""
    return (x, y) if x[0] < x[-1] else (x[::-1], y[::-1])


def draw_mistakes(mistakes: Sequence[tuple[Any, ...]], pictures: Sequence[tuple[Any, str]], path: Path) -> None:
    """Write one picture with the mistakes (index, true class, predicted class, confidence), given the (uint8 [3, H, W],
    name) of each. Without mistakes remove the file."""
    path.unlink(missing_ok=True)  # an earlier epoch's
    if not mistakes:
        return
    figure, places = figure_of(len(mistakes), width=2.6, height=3.2)
    for axes, (_, true, predicted, confidence), (image, caption) in zip(places, mistakes, pictures, strict=True):
        axes.set(xticks=[], yticks=[], frame_on=False)
        axes.imshow(image.permute(1, 2, 0).numpy())
        axes.set_title(f"true {short(true, 18)}\npredicted {short(predicted, 18)} {100 * confidence:.1f} %", fontsize=8)
        axes.set_xlabel(short(caption, 40), fontsize=7)
    save(figure, path)
