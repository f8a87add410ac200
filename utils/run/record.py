"""What is kept about a run besides its weights: options, code, versions and a row of numbers per epoch."""

import contextlib
import functools
import os
import platform
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from utils import VERSION, UserError
from utils.files import mine, numbered, private_folder, write_atomically, write_csv
from utils.notices import forget, note, once, warn
from utils.options import own
from utils.options.options import read_yaml
from utils.train import processes

from .run import Run, read_rows

SHOWN = 4  # files that have changed
PACKAGES = ("torch", "torchvision", "torchnet", "visdom", "fire", "pillow", "numpy")
# Options that say what is measured, and change nothing about how.
NAMING = "dataset", "model", "load_model_path", "run", "report_dir", "val_size", "batch_size"
ROOT = Path(__file__).resolve().parent.parent.parent


def write_config(run: Run, options: dict[str, Any]) -> None:
    """Write config.yaml: every option, and for each start of the run its code, command and packages.

    Raises OSError when a new run's file cannot be written; on a resumed one that is a warning."""
    path = run.folder / "config.yaml"
    starts: list[Any] = []  # where there is no file, or a damaged one
    with contextlib.suppress(UserError, LookupError, TypeError):
        starts = [*read_yaml(path, ())["run"]]
    diff = run.folder / f"source_{len(starts) + 1}.diff"
    versions = {"hearth": VERSION, "python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
    record = {
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        **source_version(diff),
        "launch": processes.launch_id(),  # by which a restarted torchrun finds its run
        "versions": versions,
    }
    text = "# python main.py train --config=<this file> trains with the same options.\n"
    text += yaml.safe_dump({**options, "run": [*starts, record]}, sort_keys=False, allow_unicode=True)
    try:
        run.mark("unfinished")
        write_atomically(path, lambda file: file.write(text))
        for module, source in own.files.items():  # no diff of hearth's code has them
            write_atomically(
                run.folder / f"source_{len(starts) + 1}_{module}.py",
                functools.partial(lambda code, file: file.write(code), source.read_text("utf-8", "replace")),
            )
    except OSError as error:
        if not starts:
            raise
        warn(f"{path}: {error.strerror}; this start of the run is not on record")


def change_config(run: Run, **values: Any) -> None:
    """Change options in config.yaml: a run that is resumed has them. That it cannot be written is a warning."""
    path = run.folder / "config.yaml"
    try:
        record = {**read_yaml(path, ()), **values}
        write_atomically(path, lambda file: yaml.safe_dump(record, file, sort_keys=False, allow_unicode=True))
    except (OSError, UserError) as error:
        warn(f"{path}: {error}; a resumed run does not know of the change")


class Results:
    """results.csv of a run: a row per epoch.

    Rows that the disk does not take are written with a later one; one warning names them."""

    def __init__(self, folder: Path):
        self.path = folder / "results.csv"
        self._rows: list[dict[str, str]] | None = None

    def add(self, row: dict[str, Any]) -> list[dict[str, str]]:
        """Add the finished epoch's row, a dict with `epoch`. A row of the same epoch (of a run that was killed between
        this and saving its checkpoint) is replaced. Returns all rows, values as text."""
        if self._rows is None:
            self._rows = read_rows(self.path.parent)
        if not self._rows and row["epoch"] > 1:
            warn(f"{self.path} has lost the rows before epoch {row['epoch']}")
        self._rows = [old for old in self._rows if int(old["epoch"]) < row["epoch"]]
        self._rows.append({name: str(value) for name, value in row.items()})
        header = list(dict.fromkeys(name for one in [row, *self._rows] for name in one))
        try:
            write_csv(self.path, header, ([one.get(name, "") for name in header] for one in self._rows))
            forget("unwritten", owner=self)
        except OSError as error:
            if once("unwritten", owner=self):
                warn(f"{self.path}: {error.strerror}; the rows from epoch {row['epoch']} on are not in it yet")
        return self._rows


def open_report(opt: Any, measured: Any, info: dict[str, Any]) -> tuple[Path, str]:
    """(a folder for the report on the checkpoint opt.load_model_path, the data that it is about, in words); a note, and
    a line in about.yaml, where the checkpoint, whose `info` is given, was trained on samples of the data set measured.

    The folder is opt.report_dir, or <checkpoint>_report beside the checkpoint, here, or in a temporary folder of the
    user's: the first that can be written, and never one of another user's; a note says so where it is not beside. An
    earlier report on the same checkpoint and data, with the same options, is replaced, any other one stays, and the new
    folder has a number. Of several models, the `members` in `info`, see place_of_report.
    about.yaml in it names checkpoint, data and date. Raises UserError when none can be written.
    """
    roots = ", ".join(root for root in opt.val_data_root or opt.train_data_root if os.path.exists(root))
    data = f"{opt.dataset} of {roots}" if roots else opt.dataset  # some need no files
    path = opt.load_model_path if "://" in opt.load_model_path else os.path.abspath(opt.load_model_path)
    samples, other = len(measured), differently(opt, info.get("config", {}))
    seen = trained_on(opt, measured, info)
    about = {"checkpoint": path, "data": data, "samples": samples, "image_size": opt.image_size}
    if seen:
        about["trained_on"] = seen
        note(f"the model was trained on samples that are measured here, of {seen}: on new ones it is probably worse")
    about |= {"options": other} if other else {}
    about |= {"date": time.strftime("%Y-%m-%d %H:%M:%S"), "hearth": VERSION}
    text = yaml.safe_dump(about, sort_keys=False, allow_unicode=True)
    beside = place_of_report(opt.load_model_path, list(info.get("members", [opt.load_model_path])))
    own = [beside, Path(beside.name), private_folder() / beside.name]
    places = [Path(opt.report_dir)] if opt.report_dir else own
    for place in places:
        with contextlib.suppress(OSError):
            alone = place == beside and os.path.exists(path)  # and it may be moved with what it is about
            subject = (data, samples, other, *([] if alone else [path]))
            same = (one for one in numbered(place) if not one.exists() or reported(one)[: len(subject)] == subject)
            folder = next(one for one in same if not one.exists() or mine(one))
            folder.mkdir(parents=bool(opt.report_dir), exist_ok=True)  # never for an address
            for old in [*folder.glob("val_*.png"), *folder.glob("cam_*.png")]:
                old.unlink()
            write_atomically(folder / "about.yaml", lambda file: file.write(text))
            if place != places[0]:
                note(f"{places[0].parent} cannot be written: the report is in {folder} (--report-dir names another)")
            return folder, data
    raise UserError(f"{places[-1]} cannot be written: name another folder with --report-dir")


def place_of_report(name: str, files: list[str]) -> Path:
    """Where a report lies if it can: beside the checkpoint, which may be somebody else's, or an address; of several
    files that `name` means in their folder, or beside the first."""
    path = Path(name)
    if name not in files:
        return (path if path.is_dir() else Path(files[0]).parent) / "average_report"
    return path.parent / f"{path.stem if path.suffix == '.pth' else path.name}_report"  # best.onnx beside best.pth


def trained_on(opt: Any, measured: Any, info: dict[str, Any]) -> str:
    """The roots, with commas, whose samples are measured though the checkpoint, or one of the `members` whose mean it
    is, was trained on some of them, as far as the options in their `info` prove it; "" for none."""
    trained: set[str] = set()
    for path, one in info.get("members", {opt.load_model_path: info}).items():
        then = one.get("config", {})
        same_place = os.path.realpath(Path(path).parent.parent) == os.path.realpath(then.get("work_dir", ""))
        # Each takes a share of a root by the samples' names, the same ones as then, unless there are --val-data-root.
        if opt.dataset == then.get("dataset") and (opt.val_data_root or then.get("val_data_root")):
            roots = [root for root in then.get("train_data_root", ()) if same_place or os.path.isabs(root)]
            trained.update(map(os.path.realpath, roots))
    measures = (opt.val_data_root or opt.train_data_root) if getattr(measured, "whole_roots", False) else ()
    return ", ".join(root for root in measures if os.path.realpath(root) in trained)


def differently(opt: Any, then: dict[str, Any]) -> dict[str, Any]:
    """{name: value} of the options given now that change what is measured, and differ from those of the training; and
    the views that are averaged."""
    kinds = {name: kind for name, kind in opt.options().items() if name in opt.asked & then.keys() and not kind.free}
    other = {name: getattr(opt, name) for name in kinds if name not in NAMING and getattr(opt, name) != then[name]}
    return other | ({"tta": opt.tta} if opt.tta else {})


def reported(folder: Path) -> tuple[Any, ...]:
    """(the data that the report in a folder is about, how many samples, options that it was made with, its checkpoint);
    () where there is none."""
    with contextlib.suppress(UserError):
        about = read_yaml(folder / "about.yaml", ())
        return about.get("data"), about.get("samples"), about.get("options", {}), about.get("checkpoint")
    return ()


def git(*arguments: str, fine: tuple[int, ...] = (0,)) -> str | None:
    """What git prints about the project's code; None for an exit code that is not fine. Raises OSError where there is
    no git, and subprocess.TimeoutExpired."""
    # The clone may be another user's, whose code runs here anyway.
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    return done.stdout.rstrip("\n") if done.returncode in fine else None


def changes_since(commit: str) -> str:
    """The diff from a commit to the project's present code, new files included; "" for an unknown commit."""
    if (known := git("diff", commit)) is None:
        return ""
    new = (git("ls-files", "-z", "--others", "--exclude-standard", "--", "*.py") or "").split("\0")
    added = [git("diff", "--no-index", os.devnull, name, fine=(0, 1)) for name in new if name]
    return "\n".join(part for part in (known, *added) if part)


def changed_code(folder: Path) -> str:
    """Which code differs from that of the last start of the run in a folder, as far as that is on record: files of the
    project, and the user's own (their copies are source_N_<module>.py), in words; "" for none."""
    changed: dict[str, str] = {}
    with contextlib.suppress(UserError, LookupError, TypeError, OSError, subprocess.TimeoutExpired):
        starts = read_yaml(folder / "config.yaml", ())["run"]
        source, commit = folder / f"source_{len(starts)}", starts[-1]["git_commit"]
        then = source.with_suffix(".diff").read_text("utf-8", "replace") if source.with_suffix(".diff").exists() else ""
        now = changes_since(commit) if commit and git("cat-file", "-e", commit) is not None else then
        one, other = sections(then), sections(now)
        changed = {name: "" for name in {**one, **other} if one.get(name) != other.get(name)}
        for copy in folder.glob(f"{source.name}_*.py"):
            name = copy.stem.removeprefix(f"{source.name}_").replace(".", "/") + ".py"
            file = next((place / name for place in (Path.cwd(), ROOT) if (place / name).is_file()), copy)
            if file.read_text("utf-8", "replace") != copy.read_text("utf-8", "replace"):
                changed[name] = f" (it was {copy})"
    names = [f"{name}{was}" for name, was in changed.items()]
    return ", ".join(names[:SHOWN]) + (f", ... and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def sections(diff: str) -> dict[str, str]:
    """{a Python file: its part of a diff by git}, without the lines that name its hashes."""
    parts = re.split(r"^diff --git (?:a/.+ b/(.+)|.+)\n", diff, flags=re.MULTILINE)[1:]
    return {
        name: re.sub(r"^index .*\n", "", part, flags=re.MULTILINE).strip()
        for name, part in zip(parts[::2], parts[1::2], strict=True)
        if (name or "").endswith(".py")
    }


def source_version(diff: Path) -> dict[str, Any]:
    """{"git_commit": ..., "git_dirty": ...} of the project's code, None where it is no git checkout. What differs from
    the commit, new files included, is written to the file `diff`."""

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
        if changes and (text := changes_since("HEAD")):  # else a new file that is no code
            write_atomically(diff, lambda file: file.write(f"{text}\n"))
    except (OSError, subprocess.TimeoutExpired):  # no git on this machine, or one that does not answer
        commit = changes = None
    return {"git_commit": commit, "git_dirty": None if changes is None else bool(changes)}


def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
