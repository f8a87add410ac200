"""A run: its folder, where it stands, and the record of what it was started with."""

import csv
import os
import platform
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import yaml

from . import UserError
from .files import write_atomically, write_csv

try:
    import fcntl
except ImportError:  # Windows: there is no such lock, so nobody is kept from continuing a run that is still going
    fcntl = None

PACKAGES = ("torch", "torchvision", "torchnet", "visdom", "fire", "pillow", "numpy")


class Run:
    """One training's folder and position.

    Attributes:
        folder: Path; config.yaml, last.pth, best.pth, events.jsonl, results.csv and the pictures are in it.
        epoch, batch, step: epochs finished, batches done in the one under way, steps over all.
        best: the best value so far of the measure that best.pth follows, or None.

    The file `lock` in the folder says whether the run is finished, and is locked while a process works on the run; the
    lock ends with the process, however that ends.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.epoch = self.batch = self.step = 0
        self.best = None
        self._lock = open(self.folder / "lock", "a")  # noqa: SIM115 - held open as long as the run lives
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
        """Write config.yaml: every option, and for each start of the run its code, command and packages."""
        path = self.folder / "config.yaml"
        starts = yaml.safe_load(path.read_text(encoding="utf-8"))["run"] if path.exists() else []
        diff = self.folder / f"source_{len(starts) + 1}.diff"
        record = {"command": sys.argv, "started": time.strftime("%Y-%m-%d %H:%M:%S"), **source_version(diff)}
        record["versions"] = {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
        self._mark("unfinished")
        content = {**options, "run": [*starts, record]}
        header = "# python main.py train --config=<this file> trains with the same options.\n"
        text = header + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        write_atomically(path, lambda file: file.write(text))

    def add_result(self, row):
        """Add the finished epoch's row, a dict with `epoch`, to results.csv. A row of the same epoch (of a run that was
        killed between this and saving its checkpoint) is replaced. Returns all rows, values as text."""
        path = self.folder / "results.csv"
        rows = []
        if path.is_file():
            with open(path, newline="", encoding="utf-8") as file:
                rows = [old for old in csv.DictReader(file) if int(old["epoch"]) < row["epoch"]]
        rows.append({name: str(value) for name, value in row.items()})
        header = list(dict.fromkeys(name for one in [row, *rows] for name in one))
        write_csv(path, header, ([one.get(name, "") for name in header] for one in rows))
        return rows

    def finish(self):
        """All epochs are done: --resume does not look here any more."""
        self._mark("finished")

    def close(self):
        """Let others go on with the run."""
        self._lock.close()

    def _mark(self, progress):
        self._lock.truncate(0)  # not written anew: closing any handle of the file would end the lock
        self._lock.write(progress)
        self._lock.flush()

    def state_dict(self):
        """Where the run stands, plain values."""
        return {"epoch": self.epoch, "batch": self.batch, "step": self.step, "best": self.best}

    def load_state_dict(self, state):
        """Go on from a state_dict()."""
        vars(self).update(state)


def find_run(work_dir, name):
    """The folder of the run `name` (a path, or a folder's name in work_dir), or for "newest" of the newest unfinished
    run that no process works on. Raises UserError when there is none."""
    if name != "newest":
        for folder in (Path(name), Path(work_dir) / name):
            if (folder / "config.yaml").is_file() and (folder / "last.pth").is_file():
                return folder
        raise UserError(
            f"--resume={name}: no such run (a folder with config.yaml and last.pth), also not in {work_dir}"
        )
    busy = []
    for path in sorted(Path(work_dir).glob("*/last.pth"), key=os.path.getmtime, reverse=True):
        if not (path.parent / "config.yaml").is_file():
            continue  # killed before it began
        with open(path.parent / "lock", "a+") as file:
            file.seek(0)
            if not lock(file):
                busy.append(path.parent.name)
            elif file.read() != "finished":
                return path.parent
    going = f" but {', '.join(busy)}, which another process is training" if busy else ""
    raise UserError(
        f"--resume: {work_dir} holds no unfinished run{going}; a finished one has to be named: --resume=<run>"
    )


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
