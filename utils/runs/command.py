"""The commands about runs: they load no torch, but for `replay`."""

from types import SimpleNamespace
from typing import Any

from utils import UserError
from utils.events import describe
from utils.steer.client import control

from . import compare, prune
from .table import find_runs, table


def runs(opt: Any) -> int:
    """Print the runs of opt.work_dir, or what --compare or --prune ask for. Returns the exit code. Raises UserError."""
    if opt.prune:
        return prune.show(opt)
    found = find_runs(opt.work_dir, opt.compare)
    found = [run._replace(options=opt.translated(run.options)) for run in found]  # older ones have former names
    if opt.compare:
        compare.show(found, opt)
    else:
        print(table(found, opt))
    return 0


def replay(opt: Any) -> None:
    """Hand a run's record over to the Tracker opt.to, as if the run was made again. Raises UserError."""
    from utils.watch.by_name import pick  # it loads torch
    from utils.watch.tracker import Tracker

    if not opt.run or not opt.to:
        raise UserError("replay hands a run over to a program: give --run=NAME and --to=TensorBoard, say")
    made, _ = pick(opt.to, opt)
    if not issubclass(made, Tracker):
        raise UserError(f"--to={opt.to} does not read a run's record: it has to be a Tracker of utils/watch/, or yours")
    (found,) = find_runs(opt.work_dir, [opt.run])
    tracker = made(run=SimpleNamespace(folder=found.folder))
    try:
        tracker.replay()
    except Exception as error:
        raise UserError(f"{opt.to} fails: {describe(error)}") from error
    print(f"{found.folder} is handed over to {opt.to}")


COMMANDS = {"runs": runs, "replay": replay, "control": control}
