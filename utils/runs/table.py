"""Every run of a folder side by side: `python main.py runs`. It answers without torch."""

import contextlib
import csv
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from utils import UserError
from utils.files import locked, megabytes
from utils.notices import counted
from utils.options.kinds import dashed
from utils.options.options import read_yaml
from utils.run.run import monitored, named_run, read_rows, runs_in

WORDS = "finished", "failed", "diverged"  # of the file `lock` that are states
DATA = "train_data_root", "val_data_root"
CELL = 48  # letters of an option's value that are shown
HEADER = "run", "state", "epochs", "best", "epoch", "time", "disk", "code", "options that differ"


class Found(NamedTuple):
    """A run as its folder describes it. Nothing in it is torch's: weights are not read.

    Attributes:
        folder: Path.
        state: "running", "finished", "failed" (before its first step), "diverged" (ended by nan) or "unfinished".
        options: {name: value}, all of them; {} where config.yaml is lost.
        starts: a dict of command, commit and versions for each time that it was started or resumed.
        rows: those of results.csv, a dict of text per epoch.
        measure: what selects its best.pth, such as val_accuracy; "" before its first epoch.
        best: (epoch, value) of that measure, or None.
        size: bytes on the disk.
    """

    folder: Path
    state: str
    options: dict[str, Any]
    starts: list[dict[str, Any]]
    rows: list[dict[str, str]]
    measure: str
    best: tuple[int, float] | None
    size: int

    def seconds(self) -> float:
        """How long its epochs took."""
        return sum(number(row.get("seconds")) or 0 for row in self.rows)

    def code(self) -> str:
        """The commit of its last start, seven letters, with a + where files differed from it; "" if not known."""
        last = self.starts[-1] if self.starts else {}
        return str(last.get("git_commit") or "")[:7] + "+" * bool(last.get("git_dirty"))

    def data(self) -> tuple[str, ...]:
        """What it was trained and validated on: runs on other data cannot be compared by their results."""
        return tuple(shown(self.options.get(name, "")) for name in ("dataset", *DATA))

    def result(self) -> str:
        """Its best value, "val_loss 0.31 (val_accuracy 90)": in brackets that epoch's first measure, if that is another
        one; "" before its first epoch."""
        if self.best is None:
            return ""
        row = next(row for row in self.rows if int(row["epoch"]) == self.best[0])
        first = monitored(row, None)
        other = number(row.get(first)) if first != self.measure else None
        return f"{self.measure} {self.best[1]:.4g}" + (f" ({first} {other:.4g})" if other is not None else "")


def number(text: Any) -> float | None:
    """A finite number that is written as text, or None."""
    with contextlib.suppress(TypeError, ValueError):
        value = float(text)
        return value if abs(value) < float("inf") else None
    return None


def find_runs(work_dir: str, names: Sequence[str] = ()) -> list[Found]:
    """The runs in a folder, or those of them that are named (a path will do). Raises UserError where there is none."""
    if not names:
        folders = runs_in(work_dir)
        if not folders:
            raise UserError(
                f"{work_dir} holds no run: `python main.py train` begins one, --work-dir=FOLDER names another"
            )
        return [read_run(folder) for folder in folders]
    return [read_run(named_run(work_dir, name)) for name in names]


def read_run(folder: Path) -> Found:
    """What the files of a run's folder tell; what cannot be read is left out."""
    options, rows, state = {}, [], "unfinished"
    with contextlib.suppress(UserError):
        options = read_yaml(folder / "config.yaml", ())
    starts = options.pop("run", [])
    starts = [one for one in starts if isinstance(one, dict)] if isinstance(starts, list) else []
    with contextlib.suppress(OSError, csv.Error):
        rows = read_rows(folder)
    with contextlib.suppress(OSError):
        text = (folder / "lock").read_text("utf-8", "replace")
        state = "running" if locked(folder / "lock") else text if text in WORDS else state
    measure = monitored(rows[-1] if rows else (), options.get("monitor"))
    values = [(int(row["epoch"]), value) for row in rows if (value := number(row.get(measure))) is not None]
    best = (min if measure.endswith("loss") else max)(values, key=lambda one: one[1], default=None)
    return Found(folder, state, options, starts, rows, measure if rows else "", best, size_of(folder))


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder. A file with two names counts once."""
    files: dict[tuple[int, int], int] = {}
    walk = [(str(path.parent), [], [path.name])] if path.is_file() else os.walk(path)
    for folder, _, names in walk:
        for name in names:
            with contextlib.suppress(OSError):  # it was deleted
                facts = os.lstat(os.path.join(folder, name))
                files[facts.st_dev, facts.st_ino] = facts.st_size
    return sum(files.values())


def ranked(runs: list[Found]) -> list[Found]:
    """The best first, of each data and measure; those without any result last, the newest of them first."""

    def rank(run: Found) -> tuple[Any, ...]:
        if run.best is None:
            return True, (), "", 0, run.folder.name
        sign = 1 if run.measure.endswith("loss") else -1
        return False, run.data(), run.measure, sign * run.best[1], run.folder.name

    return sorted(sorted(runs, key=lambda run: run.folder.name, reverse=True), key=lambda run: rank(run)[:4])


def differences(runs: Sequence[Found], defaults: dict[str, Any], watching: Iterable[str]) -> list[dict[str, Any]]:
    """For each run the options in which it differs from the defaults and from another of the runs; a single one's are
    compared with the defaults alone. Those that only watch (`watching`) are left out."""
    skipped = {*watching, "resume"}
    names = [
        name for name in dict.fromkeys(itertools.chain(defaults, *(run.options for run in runs))) if name not in skipped
    ]
    known = [run for run in runs if run.options]
    varied = {
        name
        for name in names
        if len(known) < 2 or any(run.options.get(name) != known[0].options.get(name) for run in known)
    }
    return [
        {n: run.options[n] for n in names if n in varied and n in run.options and run.options[n] != defaults.get(n)}
        for run in runs
    ]


def shown(value: Any) -> str:
    """An option's value as the command line takes it."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "[]"
    if isinstance(value, dict):
        return ",".join(f"{name}={one}" for name, one in value.items()) or "{}"
    return str(value).partition("  # ")[0]  # behind it --pretrained has checksum and licence


def cut(text: str) -> str:
    """A cell's text, of a long one the end."""
    return text if len(text) <= CELL else f"...{text[3 - CELL :]}"


def spent(seconds: float) -> str:
    """3725 -> "1 h 02 min"; 65 -> "1 min 05 s"; 3.21 -> "3.2 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def table(runs: list[Found], opt: Any) -> str:
    """A line per run, the best first, and what all of them take on the disk. opt: the options, for their defaults."""
    runs = ranked(runs)
    watching = [name for name, kind in opt.options().items() if kind.free and name not in ("max_epoch", *DATA)]
    given = differences(runs, opt.root()().values(), watching)
    lines = [HEADER]
    for run, options in zip(runs, given, strict=True):
        lines.append(
            (
                run.folder.name,
                run.state,
                f"{run.rows[-1]['epoch'] if run.rows else 0}/{run.options.get('max_epoch', '?')}",
                run.result(),
                str(run.best[0] if run.best else ""),
                spent(run.seconds()),
                megabytes(run.size),
                run.code(),
                " ".join(f"{dashed(name)}={cut(shown(value))}" for name, value in options.items()),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    total = f"{counted(len(runs), 'run')}, {megabytes(sum(run.size for run in runs))}"
    several = len({run.data() for run in runs if run.best}) > 1
    grouped = ["runs on the same data stand together; results on other data cannot be compared"] if several else []
    return "\n".join([*text, "", *grouped, total])
