"""What a sweep has found: a table of its trials, the best command, pictures."""

from pathlib import Path
from typing import Any

from utils.notices import command, warn
from utils.options.kinds import dashed
from utils.runs.table import read_run, spent

from . import pictures
from .space import Space, words
from .study import ABOUT, Study, counts

HEADER = "trial", "state", "epochs", "time", "best"
STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished"}


def show(space: Space, where: Study) -> None:
    """Print the table, the best first, and the best command, and draw the pictures."""
    with where.opened() as storage:
        study = where.found(storage)
        measure = study.user_attrs[ABOUT]["measure"]
        trials = [one for one in study.get_trials() if counts(one)]
        print(table(trials, space, where, measure))
        for one in trials:
            if one.state.name == "RUNNING":
                place = one.user_attrs["place"]
                print(f"trial {one.number} is being trained, or was left, in {place}: the same command there ends it")
        complete = [one for one in trials if one.state.name == "COMPLETE"]
        if complete:
            best = rank(complete, measure)[0]
            print(f"best: {command('train', *words({**space.words, **best.params}))}")
            print(f"its model: {folder_of(best, where) / 'best.pth'}")
        try:
            for path in pictures.draw(study, complete, space, measure, Path(where.work_dir, where.name)):
                print(f"picture: {path}")
        except Exception as error:  # a picture is no reason to end with an error
            warn(f"the pictures are not complete: {type(error).__name__}: {error}")


def folder_of(trial: Any, where: Study) -> Path:
    """The folder of a trial's run; of one that is on another machine its name stands before it."""
    place = trial.user_attrs["place"]
    name = Path(str(trial.user_attrs.get("folder", ""))).name  # others write into a study, too
    return Path(where.work_dir if place == where.place() else place, name.replace("..", ""))


def rank(trials: list[Any], measure: str) -> list[Any]:
    """Finished trials by their values, then pruned ones, then those without a value."""
    sign = 1 if measure.endswith("loss") else -1
    order = [*STATES]
    return sorted(trials, key=lambda one: (one.value is None, order.index(one.state.name), sign * (one.value or 0)))


def table(trials: list[Any], space: Space, where: Study, measure: str) -> str:
    """A line per trial, the best first."""
    lines = [(*HEADER[:-1], measure, *map(dashed, space.varied), "")]
    for one in rank(trials, measure):
        seconds = read_run(folder_of(one, where)).seconds()  # 0 of another machine's
        value = "" if one.value is None else f"{one.value:.4g}"
        chosen = (shown(one.params.get(name, "")) for name in space.varied)
        state = STATES.get(one.state.name, one.state.name.lower())
        state = "diverged" if state == "pruned" and "pruned" not in one.user_attrs else state
        lines.append(
            (
                str(one.number),
                state,
                str(len(one.intermediate_values)),
                spent(seconds) if seconds else "",
                value,
                *chosen,
                reason(one),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def shown(value: Any) -> str:
    """A trial's value of an option, floats with four digits: the best command has them all."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def reason(trial: Any) -> str:
    """Why a trial did not finish, or ""."""
    text = str(trial.user_attrs.get("reason", "")).removeprefix("pruned, ")
    return text if len(text) < 80 else f"{text[:77]}..."
