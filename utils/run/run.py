"""A run: its folder and where it stands."""

import contextlib
import csv
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from utils import UserError
from utils.files import lock, locked, numbered
from utils.options.kinds import nearest

GLANCES = 10  # times that a run's lock is asked for


def new_folder(work_dir: str, model: str) -> Path:
    """Make <work_dir>/<model>_<mmdd_HH_MM_SS>, never one that exists: two runs of one second get different ones."""
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    for folder in numbered(Path(work_dir) / time.strftime(f"{model}_%m%d_%H_%M_%S")):
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("numbered() has no end")


def is_run(folder: Path) -> bool:
    """Whether a run began here, though one of its files may be lost."""
    return any((folder / file).is_file() for file in ("config.yaml", "lock"))


def runs_in(work_dir: str | Path) -> list[Path]:
    """The folders of the runs in a folder, sorted; of a folder of folds, see --fold=all, the runs in it."""
    inside = {path: [one for one in sorted(path.glob("*")) if is_run(one)] for path in sorted(Path(work_dir).glob("*"))}
    return [run for path, runs in inside.items() if is_run(path) for run in runs or [path]]


def places(work_dir: str | Path, name: str) -> list[Path]:
    """Where the run of that name may be: the name is its path, or its folder's name in work_dir, or in folds there."""
    return [Path(name), Path(work_dir, name), *(path for path in runs_in(work_dir) if path.name == name)]


def in_training(folder: Path) -> bool:
    """Whether a process trains the run in this folder now. Raises OSError."""
    return (folder / "lock").is_file() and locked(folder / "lock")


def named_run(work_dir: str, name: str, option: str = "") -> Path:
    """The folder of a run that is named by its path, or by its folder's name in work_dir. Raises UserError, which
    begins with the option, where there is none."""
    for folder in places(work_dir, name):
        if is_run(folder):
            return folder
    hint = like(name, [path.name for path in runs_in(work_dir)], work_dir)
    raise UserError(f"{option}{name}: no such run, also not in {work_dir}{hint}")


def like(name: str, runs: list[str], work_dir: str) -> str:
    """For messages: those of the runs in work_dir whose names look like this one, or how to list all."""
    return nearest(Path(name).name, runs) or (
        f"; `runs --work-dir={work_dir}` lists those that are there" if runs else ""
    )


def read_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's results.csv, one per epoch, values as text; none where there is no file. Raises OSError and
    csv.Error."""
    path = folder / "results.csv"
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        return [row for row in csv.DictReader(file) if (row.get("epoch") or "").isdecimal()]


def monitored(names: Iterable[str], monitor: str | None) -> str:
    """The number that selects best.pth: `monitor`, or the first of the names that is of the validation, or the loss."""
    return monitor or next((name for name in names if name.startswith("val_")), "loss")


class Run:
    """One training's folder and position.

    Attributes:
        folder: Path; config.yaml, last.pth, previous.pth, best.pth, events.jsonl, results.csv and pictures are in it.
        epoch, batch, step: epochs finished, batches done in the current one, steps over all.
        done: share of the epochs that was done when the current one began, 0 to 1.
        best: the best value so far of the measure that selects best.pth, or None.
        steered: [step, command] of every change that was commanded meanwhile, see utils/steer/.
        over: why no epoch follows, said by an observer; "" while the run goes on.

    The file `lock` in the folder records whether the run is finished, and is locked while a process works on the run;
    the lock ends with the process, however that ends. Of several processes the first one alone `writes`; the others
    only read in the folder.

    Raises UserError when another process works on the run.
    """

    def __init__(self, folder: str | Path, writes: bool = True):
        self.folder = Path(folder)
        self.epoch = self.batch = self.step = 0
        self.done = 0.0
        self.best: float | None = None
        self.steered: list[list[Any]] = []
        self.over = ""
        self._lock = open(self.folder / "lock", "ab", buffering=0) if writes else None  # noqa: SIM115 - open for life
        if self._lock:
            for _ in range(GLANCES):  # who looks for an unfinished run has its lock for a moment
                if lock(self._lock):
                    break
                time.sleep(0.1)
            else:
                raise UserError(
                    f"{folder} is being trained by another process: wait for it, stop it first, or begin a new run "
                    "without --resume"
                )
            for leftover in self.folder.glob("*.tmp"):  # of a save that was killed
                leftover.unlink()

    def advance(self) -> None:
        """One more step is done."""
        self.batch, self.step = self.batch + 1, self.step + 1

    def next_epoch(self) -> None:
        """One more epoch is done."""
        self.epoch, self.batch = self.epoch + 1, 0

    def epochs(self, opt: Any) -> Iterator[int]:
        """The epochs that are left, counted from 0; opt.max_epoch may change meanwhile."""
        while self.epoch < opt.max_epoch:
            if self.batch == 0:  # it stays for the whole epoch, whatever max_epoch becomes
                self.done = self.epoch / opt.max_epoch
            yield self.epoch

    def position(self) -> tuple[int, int, int]:
        """(epoch, batch, step)"""
        return self.epoch, self.batch, self.step

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands, plain values."""
        return {name: getattr(self, name) for name in ("epoch", "batch", "step", "best", "steered", "done")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state_dict()."""
        vars(self).update(state)

    def mark(self, word: str) -> None:
        """Record "unfinished", "finished", "failed" (before its first step) or "diverged": --resume looks for the first
        and the last. Raises OSError."""
        if self._lock:
            self._lock.truncate(0)  # not opened again: closing any handle of the file would end the lock
            self._lock.write(word.encode())

    def close(self) -> None:
        """Let other processes resume the run."""
        if self._lock:
            self._lock.close()


class State:
    """Everything that a run needs to continue, saved and restored whole: each attribute has state_dict and
    load_state_dict, and its name is its place in a checkpoint."""

    def __init__(self, run: Run, optimizer: Any, schedule: Any, step: Any, meters: Any, guard: Any, sampler: Any):
        self.run, self.optimizer, self.schedule, self.step = run, optimizer, schedule, step
        self.meters, self.guard, self.sampler = meters, guard, sampler

    def state_dict(self) -> dict[str, Any]:
        """{name: the part's state_dict()}"""
        return {name: part.state_dict() for name, part in vars(self).items()}

    def load_state_dict(self, state: dict[str, Any], only: tuple[str, ...] = ()) -> None:
        """Continue from a state_dict(), with all parts or with these only."""
        for name in only or vars(self):
            getattr(self, name).load_state_dict(state[name])
