"""The command `control`: what is said to a run that is being trained, by this process or another. No torch here."""

from pathlib import Path
from typing import Any

from utils import UserError
from utils.files import locked
from utils.options.kinds import dashed
from utils.run.run import is_run, named_run

from .channel import send

COMMANDS = ("lr", "freeze", "unfreeze", "max_epoch", "print_freq", "save", "pause", "go_on", "stop", "status")


def control(opt: Any) -> None:
    """Send what the options say and print the answer. Raises UserError, also where the run refuses."""
    command = {name: getattr(opt, name) for name in COMMANDS if name in opt.asked and getattr(opt, name) is not False}
    if not command:
        raise UserError(f"control says nothing: give one or more of {', '.join(map(dashed, COMMANDS))}")
    folder = find_running(opt.work_dir, opt.run)
    answer = f"{folder.name}: {send(folder, command)}"
    if ": refused: " in answer:
        raise UserError(answer)
    print(answer)


def find_running(work_dir: str, name: str | None) -> Path:
    """The folder of the run that is named, or of the only one that is being trained. Raises UserError where that is
    none, or not one."""
    folders = [path for path in sorted(Path(work_dir).glob("*")) if is_run(path)]
    running = [path for path in folders if (path / "lock").is_file() and locked(path / "lock")]
    if name:
        folder = named_run(work_dir, name, "--run=")
        if not (folder / "lock").is_file() or not locked(folder / "lock"):
            raise UserError(f"{folder} is not being trained: `python main.py runs` shows its state")
        return folder
    if len(running) == 1:
        return running[0]
    if not running:
        raise UserError(f"no run in {work_dir} is being trained; --work-dir=FOLDER names another folder")
    names = ", ".join(path.name for path in running)
    raise UserError(f"{len(running)} runs are being trained: name one with --run=NAME, of {names}")
