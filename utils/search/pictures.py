"""Pictures of a sweep: what each trial reached, which options matter, and how."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from utils.metrics.plots import COLORS, TITLES, figure_of, save, short
from utils.options.kinds import dashed

from .space import Dimension, Space

LEAST = 2  # finished trials that a picture needs


def draw(study: Any, trials: list[Any], space: Space, measure: str, prefix: Path) -> Iterator[Path]:
    """Draw <prefix>_history.png, _importance.png and _slices.png of the finished trials, and yield their paths."""
    if len(trials) < LEAST:
        return
    title = TITLES.get(measure.removeprefix("val_"), measure.removeprefix("val_").replace("_", " "))
    title = f"{title}, validation" * measure.startswith("val_") or title
    yield history(trials, measure.endswith("loss"), title, Path(f"{prefix}_history.png"))
    if shares := importances(study) if len(space.varied) > 1 else {}:
        yield importance(shares, Path(f"{prefix}_importance.png"))
    yield slices(trials, space, title, Path(f"{prefix}_slices.png"))


def history(trials: list[Any], low: bool, title: str, path: Path) -> Path:
    """Draw the value of every trial, in the order in which they were begun, and the best so far."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    numbers, values = [one.number for one in trials], np.array([one.value for one in trials])
    axes.scatter(numbers, values, color=COLORS[0], s=22, label="trial")
    best = np.minimum.accumulate(values) if low else np.maximum.accumulate(values)
    axes.step(numbers, best, where="post", color=COLORS[1], label="best so far")
    axes.set(xlabel="trial", title=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower right" if not low else "upper right")
    axes.grid()
    save(figure, path)
    return path


def importances(study: Any) -> dict[str, float]:
    """{option: its share of the differences between the trials}, the largest first; {} where it cannot be said."""
    import optuna

    try:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    except (ValueError, RuntimeError):  # all values are the same, no option is in all trials
        return {}


def importance(shares: dict[str, float], path: Path) -> Path:
    """Draw a bar for each option."""
    figure = Figure(figsize=(7, 1.2 + 0.4 * len(shares)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([short(dashed(name)) for name in shares], [*shares.values()], color=COLORS[0], height=0.6)
    axes.bar_label(bars, [f"{100 * share:.0f} %" for share in shares.values()], padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.1), title="importance: share of the differences between the trials (fANOVA)")
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    save(figure, path)
    return path


def slices(trials: list[Any], space: Space, title: str, path: Path) -> Path:
    """Draw the trials' values against those of each option, a panel each."""
    figure, places = figure_of(len(space.varied), width=3.6, height=3.3)
    for axes, (name, one) in zip(places, space.varied.items(), strict=True):
        points = [(trial.params[name], trial.value) for trial in trials if name in trial.params]
        x, y = zip(*points, strict=True) if points else ((), ())
        axes.scatter(positions(one, x), y, color=COLORS[0], s=22, alpha=0.7)
        if one.log and isinstance(one.values[0], int):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(ScalarFormatter())
        elif one.log:
            axes.set_xscale("log")
        if not one.span:
            axes.set_xticks(range(len(one.values)), [short(value, 14) for value in one.values])
            axes.set_xlim(-0.5, len(one.values) - 0.5)
        axes.set(title=short(dashed(name), 30))
        axes.grid()
    figure.suptitle(title, x=0.01, ha="left")
    save(figure, path)
    return path


def positions(one: Dimension, values: Any) -> list[float]:
    """Where values of an option are drawn: those of a list side by side."""
    return [*values] if one.span else [one.values.index(value) for value in values]
