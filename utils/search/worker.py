"""A process of a sweep: it trains one trial, with `train` as it is, and ends."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch

from utils import UserError
from utils.events import Callback
from utils.notices import counted
from utils.options.options import Options
from utils.options.parts import check_parts
from utils.run.guard import Diverged
from utils.run.resume import CHECKPOINTS
from utils.run.run import Run
from utils.runs.table import read_run

from .space import Space, words
from .study import ABOUT, Claim, Study, claim, counts, fail, give_up, suggest

DONE, FAILED, NOTHING_LEFT = 0, 3, 4  # exit codes of a process; after any other one its trial has to be resumed
DRAWS = 20  # of a trial that repeats another one, before one that is left is taken
COUNTED = 1000  # combinations, at most, among which it is looked for
SPARED, PATIENCE = 5, 4  # trials that have ended before one is pruned; part of its epochs that a run has first


class Watch(Callback):
    """Reports each epoch's measure to the study, and ends the run where it is worse than the median of the others'.

    Args:
        trial: optuna.Trial.
        known: epochs that a resumed run had reported before its process was killed.
        measure: the name of what is measured.
        state: the State, which has the Run and its Schedule.
    """

    def __init__(self, trial: Any, known: set[int], measure: str, state: Any):
        self.trial, self.known, self.measure = trial, known, measure
        self.run, self.schedule = state.run, state.schedule

    def on_epoch_end(self, metrics: dict[str, Any], **_: Any) -> None:
        value, epoch, last = metrics[self.measure], metrics["epoch"], self.schedule.max_epoch
        if epoch not in self.known:
            self.trial.report(value, epoch)
        if last // PATIENCE < epoch < last and self.trial.should_prune():
            reason = f"pruned, {self.measure} {value:.4g} is worse than the median of the other trials"
            self.trial.set_user_attr("pruned", reason)
            self.run.over = reason


def work(program: ModuleType, space: Space, where: Study, wanted: int, jobs: int, slot: int) -> None:
    """Train one trial of the study; the process exits with DONE, FAILED or NOTHING_LEFT. Raises UserError for a study
    that cannot be used.

    Args:
        program: main.py's module.
        wanted: number of trials.
        jobs: how many processes there are; they share the cores.
        slot: the number of this one, from 0, by which it gets its GPU.
    """
    take_share(jobs, slot)
    says = os.dup(sys.stdout.fileno())
    with where.opened() as storage:
        study = where.found(storage)
        study.pruner = median()
        accepts = acceptable(program)
        turns = space.combinations(wanted, accepts)
        found, chosen = take(study, where, wanted, space, accepts, turns)
        if found is None:
            sys.exit(NOTHING_LEFT)
        output = os.open(found.folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(output, stream.fileno())
        program.make_callbacks = watched(program.make_callbacks, found.trial, study.user_attrs[ABOUT]["measure"])  # type: ignore[attr-defined]
        program.new_folder = lambda *_: found.folder  # type: ignore[attr-defined]
        try:
            line, code = train(program, space, study, found, chosen, bool(turns))
        except SystemExit:  # Ctrl-C: that was no failure
            found.trial.set_user_attr("stood", None)
            raise
        with contextlib.suppress(OSError):  # stdout is closed: the work continues
            os.write(says, f"{line}\n".encode("utf-8", "backslashreplace"))
    sys.exit(code)


def take(
    study: Any,
    where: Study,
    wanted: int,
    space: Space,
    accepts: Callable[[Options], None],
    turns: list[dict[str, Any]],
) -> tuple[Any, Any]:
    """(the Claim on a trial, its {option: value}); (None, {}) where nothing is left to do. A new trial that would
    repeat another one, bit by bit, is drawn again, at last from all combinations, if they can be counted.

    turns: the combinations, where they are tried in turn, else [].
    """
    for draw in range(DRAWS + 1):
        rest = turns or (space.combinations(COUNTED, accepts) if draw == DRAWS else [])
        found = claim(study, where, wanted, partial(sampler, space), partial(unused, rest))
        if found is None:
            break
        chosen = space.choose(lambda name, one, trial=found.trial: suggest(trial, name, one), accepts)  # type: ignore[misc]
        others = study.get_trials(deepcopy=False)[: found.trial.number]
        same = [one for one in others if counts(one) and has(one, found.trial.params)]
        if not same or (found.folder / "lock").exists() or draw == DRAWS:
            return found, chosen
        give_up(study, where, found, f"it is the same as trial {same[0].number}")
    return None, {}


def unused(combinations: list[dict[str, Any]], trials: list[Any]) -> dict[str, Any] | None:
    """The first combination that no trial has, of those that count."""
    return next((one for one in combinations if not any(counts(trial) and has(trial, one) for trial in trials)), None)


def has(trial: Any, values: dict[str, Any]) -> bool:
    """Whether a trial has these values: they are given to it when it begins, or drawn."""
    return values in (trial.params, trial.user_attrs.get("given"))


def take_share(jobs: int, slot: int) -> None:
    """Give this process its share of the cores, unless OMP_NUM_THREADS says how many, and one of the GPUs."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [*map(str, range(torch.cuda.device_count()))] if given is None else given.split(",")
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]


def acceptable(program: ModuleType) -> Callable[[Options], None]:
    """A function that raises UserError for options that the chosen model or data set does not read."""
    return lambda opt: check_parts(opt, program.models, program.data)


def sampler(space: Space, trial: Any) -> Any:
    """What suggests values to a trial: Optuna's Tree-structured Parzen Estimator, seeded by the trial's number, or what
    it was given."""
    import optuna

    seed = space.options({}).seed if "seed" not in space.varied else 0  # type: ignore[attr-defined]
    tpe = optuna.samplers.TPESampler(seed=(seed * 100_003 + trial.number) % 2**32)
    given = trial.user_attrs.get("given")
    return optuna.samplers.PartialFixedSampler(given, tpe) if given else tpe


def median() -> Any:
    """What says that a trial is pruned: it is worse than the median of the others at the same epoch."""
    import optuna

    return optuna.pruners.MedianPruner(n_startup_trials=SPARED)


def watched(make: Callable[..., Any], trial: Any, measure: str) -> Callable[..., Any]:
    """main.py's make_callbacks with a Watch among the observers: as --callbacks it would be in the run's record, and a
    training with the same options later on would report to the study."""
    known = {*trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values}

    def made(opt: Any, world: Any, state: Any, *rest: Any) -> Any:
        callbacks = make(opt, world, state, *rest)
        callbacks.observers = [*callbacks.observers, Watch(trial, known, measure, state)]
        return callbacks

    return made


def train(
    program: ModuleType, space: Space, study: Any, found: Claim, chosen: dict[str, Any], turn: bool
) -> tuple[str, int]:
    """Train or resume a trial, and tell the study what came out. Returns a line about it and the exit code.

    turn: whether combinations are tried in turn: then a failure counts always, else the same one would be tried again.
    """
    import optuna

    trial, folder, reason = found.trial, found.folder, ""
    given = " ".join(words(chosen))
    try:
        if "pruned" in trial.user_attrs:  # its process was killed before the run ended
            run = Run(folder)
            run.mark("finished")
            run.close()
        elif read_run(folder).state not in ("finished", "diverged"):
            resumable = any((folder / file).is_file() for file in CHECKPOINTS)
            options = space.resumed(folder) if resumable else {**space.words, **chosen}
            sys.argv[1:] = ["train", *words(options)]  # for the run's record
            program.train(space.load(options, command="train"))
    except Diverged as error:
        reason = str(error)
    except Exception as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        begun = any((folder / file).is_file() for file in CHECKPOINTS) and read_run(folder).state != "failed"
        fail(study, trial, reason, void=not (begun or turn))
        return f"trial {trial.number} failed ({given}): {reason}", FAILED
    ended = read_run(folder)
    diverged = "diverged" if ended.state == "diverged" or ended.best is None else ""
    reason = trial.user_attrs.get("pruned") or reason or diverged
    if reason or ended.best is None:
        trial.set_user_attr("reason", reason)
        study.tell(trial.number, state=optuna.trial.TrialState.PRUNED, skip_if_finished=True)
    else:
        study.tell(trial.number, ended.best[1], skip_if_finished=True)
    result = f"{ended.result() or 'no result'} after {counted(len(ended.rows), 'epoch')}"
    return f"trial {trial.number}: {result}{f', {reason}' * bool(reason)} ({given})", DONE
