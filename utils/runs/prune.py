"""Free disk space: files of runs that nothing needs any more, named with their sizes before they go."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

from utils.files import megabytes
from utils.notices import counted, warn
from utils.run.run import in_training, is_run

from .table import Found, find_runs, size_of

WHAT = {
    "previous": "the checkpoints before the last ones (previous.pth)",
    "last": "what finished runs need to get more epochs (last.pth); their best.pth stays",
    "epochs": "the weights and reports of single epochs (epoch_*)",
    "failed": "whole runs that ended before their first step",
    "packs": "decoded pictures, which are decoded again when they are needed",
}


def candidates(kind: str, opt: Any) -> list[Path]:
    """The files and folders of a kind of WHAT; of a run that is being trained none."""
    if kind == "packs":
        packs = sorted(Path(opt.pack_dir).glob("*.u8"))
        return [path for pack in packs for path in (pack, pack.with_suffix(".json")) if path.is_file()]
    idle = [run for run in find_runs(opt.work_dir) if run.state != "running"]
    return [path for run in idle for path in sorted(parts(kind, run))]


def parts(kind: str, run: Found) -> list[Path]:
    """The same of one run."""
    folder = run.folder
    if kind == "previous":
        return [*folder.glob("previous.pth")] if (folder / "last.pth").is_file() else []
    if kind == "last":
        return [*folder.glob("last.pth")] if run.state == "finished" and (folder / "best.pth").is_file() else []
    if kind == "epochs":
        return [*folder.glob("epoch_*")]
    return [folder] if run.state == "failed" else []


def show(opt: Any) -> int:
    """Print what would go with its size, and with --yes delete it; what stays is a warning. Returns the exit code, 1
    where something stays."""
    total, count, stayed = 0, 0, 0
    for kind in opt.prune:
        found = [(path, size_of(path)) for path in candidates(kind, opt)]
        print(f"{kind}: {WHAT[kind]}")
        for path, size in found:
            print(f"  {megabytes(size):>12}  {path}")
            if opt.yes:
                remove(path)
            left = opt.yes and os.path.lexists(path)  # of a folder a part may be gone
            total, count, stayed = total + size - left * size_of(path), count + (not left), stayed + left
    what = f"{counted(count, 'file or folder', 'files and folders')}, {megabytes(total)}"
    stays = f"; {counted(stayed, 'stays', 'stay')}" if stayed else ""
    print(f"deleted: {what}{stays}" if opt.yes else f"{what} in all: --yes deletes them")
    return int(bool(stayed))


def remove(path: Path) -> None:
    """Delete a file or a folder, unless its run has been started meanwhile."""
    folder = path if is_run(path) else path.parent
    with contextlib.suppress(FileNotFoundError):
        if in_training(folder):
            warn(f"{path} stays: a process works on its run")
            return
    try:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    except OSError as error:
        warn(f"{path} stays: {error.strerror}")
