"""A run: its folder, where it stands, and the record of what it was started with."""

import contextlib
import csv
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import yaml
from tqdm import tqdm

from . import UserError, distributed
from .files import write_atomically, write_csv

try:
    import fcntl
except ImportError:  # Windows: there is no such lock, so nobody is kept from continuing a run that is still going
    fcntl = None

CHECKPOINTS = "last.pth", "previous.pth"  # the newer one first
PACKAGES = ("torch", "torchvision", "torchnet", "visdom", "fire", "pillow", "numpy")


class Position:
    """Where a training stands: of every process of several but the first, which has the folder, all that it needs.

    Attributes:
        folder: Path, of the run; here it is only read.
        epoch, batch, step: epochs finished, batches done in the one under way, steps over all.
        best: the best value so far of the measure that best.pth follows, or None.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.epoch = self.batch = self.step = 0
        self.best = None

    def state_dict(self):
        """Where the run stands, plain values."""
        return {"epoch": self.epoch, "batch": self.batch, "step": self.step, "best": self.best}

    def load_state_dict(self, state):
        """Go on from a state_dict()."""
        vars(self).update(state)

    def write_config(self, options):
        """Nothing: the first process does."""


class Run(Position):
    """One training's folder and position.

    Attributes:
        folder: Path; config.yaml, last.pth, previous.pth, best.pth, events.jsonl, results.csv and pictures are in it.

    The file `lock` in the folder says whether the run is finished, and is locked while a process works on the run; the
    lock ends with the process, however that ends.
    """

    def __init__(self, folder):
        super().__init__(folder)
        self._rows, self._warned = None, False  # of results.csv; whether it was said that it lacks some
        self._lock = open(self.folder / "lock", "ab", buffering=0)  # noqa: SIM115 - held open as long as the run lives
        if not lock(self._lock):
            raise UserError(f"{folder} is being trained by another process: wait for it, or stop it first")
        for leftover in self.folder.glob("*.tmp"):  # of a save that was killed
            leftover.unlink()

    @staticmethod
    def new_folder(work_dir, model):
        """Make <work_dir>/<model>_<mmdd_HH_MM_SS>, never one that exists: two runs of one second get different ones."""
        name, count = time.strftime(f"{model}_%m%d_%H_%M_%S"), 1
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        while True:
            folder = Path(work_dir) / (name if count == 1 else f"{name}_{count}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                count += 1

    def write_config(self, options):
        """Write config.yaml: every option, and for each start of the run its code, command and packages.

        Raises OSError when a new run's file cannot be written; an older one that stays as it was is a warning."""
        path = self.folder / "config.yaml"
        starts = []  # where there is no file, or a damaged one
        with contextlib.suppress(FileNotFoundError, ValueError, LookupError, TypeError, yaml.YAMLError):
            starts = [*yaml.safe_load(path.read_text(encoding="utf-8"))["run"]]
        diff = self.folder / f"source_{len(starts) + 1}.diff"
        record = {"command": sys.argv, "started": time.strftime("%Y-%m-%d %H:%M:%S"), **source_version(diff)}
        record["launch"] = distributed.launch()  # by which a restarted torchrun finds its run
        record["versions"] = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
        content = {**options, "run": [*starts, record]}
        header = "# python main.py train --config=<this file> trains with the same options.\n"
        text = header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        try:
            self._mark(b"unfinished")
            write_atomically(path, lambda file: file.write(text))
        except OSError as error:
            if not starts:
                raise
            print(f"warning: {path}: {error.strerror}; this start of the run is not on record", file=sys.stderr)

    def add_result(self, row):
        """Add the finished epoch's row, a dict with `epoch`, to results.csv. A row of the same epoch (of a run that was
        killed between this and saving its checkpoint) is replaced. Returns all rows, values as text.

        Rows that the disk does not take are written with a later one; one warning says so."""
        path = self.folder / "results.csv"
        if self._rows is None and path.is_file():
            with open(path, newline="", encoding="utf-8", errors="replace") as file:
                self._rows = [old for old in csv.DictReader(file) if (old.get("epoch") or "").isdecimal()]
        if not self._rows and row["epoch"] > 1:
            tqdm.write(f"warning: {path} has lost the rows before epoch {row['epoch']}", file=sys.stderr)
        self._rows = [old for old in self._rows or () if int(old["epoch"]) < row["epoch"]]
        self._rows.append({name: str(value) for name, value in row.items()})
        header = list(dict.fromkeys(name for one in [row, *self._rows] for name in one))
        try:
            write_csv(path, header, ([one.get(name, "") for name in header] for one in self._rows))
            self._warned = False
        except OSError as error:
            if not self._warned:
                what = f"the rows from epoch {row['epoch']} on are not in it yet"
                tqdm.write(f"warning: {path}: {error.strerror}; {what}", file=sys.stderr)
            self._warned = True
        return self._rows

    def finish(self, word="finished"):
        """All epochs are done, or it "failed" before its first step: --resume does not look here any more."""
        with contextlib.suppress(OSError):  # then it does look, and finds nothing left to do
            self._mark(word.encode())

    def close(self):
        """Let others go on with the run."""
        self._lock.close()

    def _mark(self, progress):
        self._lock.truncate(0)  # not written anew: closing any handle of the file would end the lock
        self._lock.write(progress)


def find_run(work_dir, name):
    """The folder of the run `name` (a path, or a folder's name in work_dir), or for "newest" of the newest unfinished
    run that no process works on. Raises UserError when there is none."""
    if name != "newest":
        for folder in (Path(name), Path(work_dir) / name):
            if is_run(folder) and any((folder / file).is_file() for file in CHECKPOINTS):
                return folder
        raise UserError(
            f"--resume={name}: no such run (a folder with config.yaml and last.pth or previous.pth), also not in "
            f"{work_dir}"
        )
    busy = []
    paths = [path for file in CHECKPOINTS for path in Path(work_dir).glob(f"*/{file}")]
    for folder in dict.fromkeys(path.parent for path in sorted(paths, key=written, reverse=True)):
        if not is_run(folder):
            continue
        with open(folder / "lock", "a+") as file:
            file.seek(0)
            if not lock(file):
                busy.append(folder.name)
            elif file.read() not in ("finished", "failed"):
                return folder
    going = f" but {', '.join(busy)}, which another process is training" if busy else ""
    raise UserError(
        f"--resume: {work_dir} holds no unfinished run{going}; a finished one has to be named: --resume=<run>"
    )


def is_run(folder):
    """Whether a run began here, though one of its files may be lost."""
    return any((folder / file).is_file() for file in ("config.yaml", "lock"))


def written(path):
    """When a file was written, in seconds; 0 when a training has just renamed it."""
    try:
        return os.path.getmtime(path)
    except FileNotFoundError:
        return 0


def find_launched(work_dir):
    """The folder of the run that this torchrun began before it started its processes anew, as text; "" for none."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) == 0:
        return ""
    for path in sorted(Path(work_dir).glob("*/config.yaml"), key=written, reverse=True):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
            last = yaml.safe_load(path.read_text(encoding="utf-8"))["run"][-1]
            if last["launch"] == distributed.launch():
                return "" if (path.parent / "lock").read_text() == "failed" else str(path.parent)
    return ""


def lock(file):
    """Lock an open file for this process (not for its children). False when another process holds it."""
    try:
        if fcntl:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def source_version(diff):
    """{"git_commit": ..., "git_dirty": ...} of the project's code, None where it is no git checkout. What differs from
    the commit, new files included, is written to the file `diff`."""

    def git(*arguments, fine=(0,)):
        command = ["git", "-C", str(Path(__file__).parent.parent), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
        return done.stdout.rstrip("\n") if done.returncode in fine else None

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
        if changes:
            new = (git("ls-files", "-z", "--others", "--exclude-standard", "--", "*.py") or "").split("\0")
            parts = [
                git("diff", "HEAD"),
                *(git("diff", "--no-index", os.devnull, name, fine=(0, 1)) for name in new if name),
            ]
            text = "\n".join(part for part in parts if part) + "\n"
            write_atomically(diff, lambda file: file.write(text))
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine, or one that does not answer
        commit = changes = None
    return {"git_commit": commit, "git_dirty": None if changes is None else bool(changes)}


def version(package):
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def newest_best(work_dir):
    """The best.pth that was written last under work_dir. Raises UserError when there is none."""
    found = sorted(Path(work_dir).glob("*/best.pth"), key=os.path.getmtime)
    if not found:
        raise UserError(
            f"no trained model: {work_dir}/*/best.pth does not exist; train one, or give --load-model-path=FILE"
        )
    return found[-1]
