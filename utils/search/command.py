"""The command sweep: many trainings, whose options a study chooses."""

import importlib.util
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from utils import UserError
from utils.notices import command, counted
from utils.options.kinds import dashed
from utils.options.options import Options
from utils.run import signals
from utils.run.run import monitored

from .space import Space, dimension
from .study import ABOUT, Study

# Options of a training that make no sense in one of many.
REFUSED = {
    "resume": "the same command again continues the sweep",
    "gpus": "each trial is one process with one GPU, --jobs=2 trains two at a time",
    "processes": "each trial is one process, --jobs=2 trains two at a time",
    "replay": "a replay repeats one run",
    "pdb": "the trials have no terminal; `touch` --debug-file, then control --debug",
}
IN_A_ROW = 3  # failed trials that end the sweep
KILLED = 2  # see run_workers
DEATHS = 12  # processes that are killed one after another, without one that ends by itself
SAME = "monitor", "max_epoch"  # besides what --resume cannot change, what all trials have in common


class Plan(NamedTuple):
    """What a command line asks for.

    Attributes:
        opt: the options of the sweep itself.
        space: what its trials are given.
        where: where their study is.
    """

    opt: Any
    space: Space
    where: Study


def plan(given: dict[str, Any], load: Callable[..., Options]) -> Plan:
    """The Plan that {option: text} describe. Raises UserError.

    load: makes Options of {option: value}, and checks them for a command.
    """
    default = load({})
    kinds, given = default.options(), default.translated(given, say=True)
    own = {name: given.pop(name) for name in [*given] if name in kinds and "sweep" in kinds[name].commands}
    opt: Any = load(own, command="sweep")
    if refused := next((name for name in REFUSED if name in given), ""):
        raise UserError(f"sweep does not take {dashed(refused)}: {REFUSED[refused]}")
    found = {name: dimension(name, kinds[name], value) for name, value in given.items() if name in kinds}
    varied = {name: one for name, one in found.items() if one}
    if "all" in str(given.get("fold")).replace("|", ",").split(","):
        raise UserError(f"--fold={given['fold']}: a trial is one run: give one fold, or several of them, --fold=0,1,2")
    space = Space({name: value for name, value in given.items() if name not in varied}, varied, load)
    base: Any = space.options({})
    if not varied:
        raise UserError("sweep needs what to try: a range, --lr=1e-4..1e-1, or a list, --optimizer=Adam,SGD")
    if not importlib.util.find_spec("optuna"):
        raise UserError('sweep needs a package that is not installed: pip install "optuna>=5,<5.1"')
    if not hasattr(os, "fork"):
        raise UserError("sweep needs a system with processes that fork: Linux, macOS, or Windows' WSL")
    space.check(lambda opt: None)
    return Plan(opt, space, Study.at(opt.study, base.work_dir))


def sweep(program: ModuleType, asked: Plan) -> None:
    """Train the trials that are left, --jobs at a time, and show what came out. Raises UserError."""
    from . import summary, worker

    program.processes.refuse_torchrun()
    space, where, opt = asked.space, asked.where, asked.opt
    accepts = worker.acceptable(program)
    space.check(accepts)
    wanted = len(space.combinations(opt.trials, accepts)) or opt.trials
    settle(program, space, where)
    for name, one in space.varied.items():
        print(f"{name}: {one}")
    each = f"{wanted} trials, each combination once" if wanted < opt.trials else counted(wanted, "trial")
    print(f"{each}, runs in {where.work_dir}/{where.name}_*, study {where.shown}", flush=True)
    ended = run_workers(worker.work, (program, space, where, wanted, opt.jobs), opt.jobs)
    again = command(*sys.argv[1:])
    if ended > 128:
        print(f"stopped; to continue: {again}")
        sys.exit(ended)
    summary.show(space, where)
    if ended == KILLED:
        raise UserError(
            f"{DEATHS} processes in a row were killed (no memory? fewer --jobs); when that is fixed: {again}"
        )
    if ended:
        raise UserError(f"the last {IN_A_ROW} trials failed, see above; when that is fixed: {again}")


def settle(program: ModuleType, space: Space, where: Study) -> None:
    """Make the study, or check that the one that is there has the same ranges and options. Raises UserError."""
    base = space.options({}).values()
    kinds = space.load({}).options()
    same = [name for name, kind in kinds.items() if (not kind.free or name in SAME) and name not in space.varied]
    now = {
        "ranges": {name: str(one) for name, one in sorted(space.varied.items())},
        "options": {name: str(base[name]) for name in same if "train" in kinds[name].commands},
    }
    with where.opened() as storage:
        study = where.found(storage)
        about = study.user_attrs.get(ABOUT) if study else None
        if study and not about and study.get_trials(deepcopy=False):
            raise UserError(f"--study={where.shown} holds trials of another program: name another one")
    if about:
        where.check(about, now)
        return
    measure = in_a_fork(probe, program, space)
    with where.opened() as storage:
        where.begin(storage, {"measure": measure, **now})


def probe(program: ModuleType, space: Space, answer: Any) -> None:
    """Send the name of what the trials are compared by, or the UserError that keeps them from being trained: data that
    are not there, say."""
    try:
        opt: Any = space.options({name: one.values[0] for name, one in space.varied.items() if not one.depends})
        dataset = program.make_data(opt, "val", program.torch.device("cpu"))
        measures = [f"val_{name}" for name in dataset.meter().summary()]
        if opt.monitor not in (None, *measures, "val_loss", "loss"):
            raise UserError(f"--monitor={opt.monitor}: this data set gives {', '.join(measures)}, val_loss, loss")
        answer.send(monitored(measures, opt.monitor))
    except UserError as error:
        answer.send(error)


def in_a_fork(function: Callable[..., None], *arguments: Any) -> Any:
    """What function(*arguments, answer) sends from a process of its own: here, where processes are forked later, torch
    must not have computed anything. A UserError that it sends is raised."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=in_child, args=(function, *arguments, sender))
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        process.join()
        raise UserError(f"the data could not be read, see above (exit code {process.exitcode})") from None
    process.join()
    if isinstance(found, UserError):
        raise found
    return found


def in_child(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in a process that was forked; a UserError is one line."""
    signals.end_on_signals()  # they knew the process that forked
    signals.loaded()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.SIGNALS)
    try:
        function(*arguments)
    except UserError as error:
        print(f"main.py: {error}", file=sys.stderr)
        sys.exit(2)


def run_workers(target: Callable[..., None], arguments: tuple[Any, ...], jobs: int) -> int:
    """Let `jobs` processes call target(*arguments, slot) again and again, until there is nothing left to do. A process
    that is killed is replaced: the next one finds its trial. Returns 0, 1 after too many failures, KILLED after too
    many kills, or 128 and the number of the signal that has ended them all."""
    from .worker import DONE, FAILED, NOTHING_LEFT

    fork, running, free = multiprocessing.get_context("fork"), dict[Any, tuple[Any, int]](), [*range(jobs)]
    received, failed, deaths = list[int](), 0, 0

    def forward(number: int, frame: Any) -> None:
        received.append(number)
        for process, _ in running.values():
            if process.is_alive():
                os.kill(process.pid, number)

    before = {number: signal.signal(number, forward) for number in signals.SIGNALS}
    try:
        while running or free:
            while free and not received and failed < IN_A_ROW and deaths < DEATHS:
                slot = free.pop(0)
                process = fork.Process(target=in_child, args=(target, *arguments, slot))
                signal.pthread_sigmask(signal.SIG_BLOCK, signals.SIGNALS)  # until the process has its own handlers
                try:
                    process.start()
                    running[process.sentinel] = process, slot
                finally:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals.SIGNALS)
            if not running:
                break
            for sentinel in multiprocessing.connection.wait([*running]):
                process, slot = running.pop(sentinel)
                process.join()
                code = process.exitcode
                failed = failed + 1 if code in (FAILED, 1, 2) else 0 if code == DONE else failed
                deaths = deaths + 1 if code < 0 else 0
                if code < 0:
                    print(f"a process was killed by {signal.Signals(-code).name}: its trial is resumed", flush=True)
                free += [slot] * (code != NOTHING_LEFT)
    finally:
        for process, _ in running.values():  # after an error: each saves
            process.terminate()
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + received[0] if received else KILLED if deaths >= DEATHS else int(failed >= IN_A_ROW)
