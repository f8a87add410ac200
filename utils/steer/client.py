"""The command `control`: what is said to a run that is being trained, by this process or another. No torch here."""

import contextlib
from pathlib import Path
from typing import Any

from utils import UserError
from utils.options.kinds import dashed
from utils.options.options import read_yaml
from utils.run.run import in_training, named_run, runs_in

from .channel import send

COMMANDS = ("lr", "freeze", "unfreeze", "max_epoch", "print_freq", "save", "pause", "go_on", "stop", "status")


def control(opt: Any) -> None:
    """Send what the options say and print the answer, or open the debugger here. Raises UserError, also where the run
    refuses."""
    command = said(opt)
    if not command and not opt.debug:
        raise UserError(f"control says nothing: give one or more of {', '.join(map(dashed, (*COMMANDS, 'debug')))}")
    if command and opt.debug:
        raise UserError(f"--debug only opens a prompt: give {', '.join(map(dashed, command))} in another command")
    if "pause" in command and "go_on" in command:
        raise UserError("--pause and --go-on contradict each other: give one of them")
    folder = find_running(opt.work_dir, opt.run)
    if not listens(folder):
        raise UserError(f"{folder.name} takes no commands: it was started with --steer=False")
    if opt.debug:
        from .attach import enter  # only Unix has terminals of that kind

        return enter(folder, opt.rank)
    answer = f"{folder.name}: {send(folder, command)}"
    if ": refused: " in answer:
        raise UserError(answer)
    print(answer)


def said(opt: Any) -> dict[str, Any]:
    """{command: value} of the options that are given."""
    return {name: getattr(opt, name) for name in COMMANDS if name in opt.asked and getattr(opt, name) is not False}


def listens(folder: Path) -> bool:
    """Whether the run in `folder` takes commands."""
    with contextlib.suppress(UserError):  # a new run has not written it yet
        return read_yaml(folder / "config.yaml", ()).get("steer") is not False
    return True


def find_running(work_dir: str, name: str | None) -> Path:
    """The folder of the run that is named, or of the only one that is being trained. Raises UserError where that is
    none, or not one."""
    running = [path for path in runs_in(work_dir) if in_training(path)]
    if name:
        folder = named_run(work_dir, name, "--run=")
        if not in_training(folder):
            raise UserError(f"{folder} is not being trained: `python main.py runs` shows its state")
        return folder
    if len(running) == 1:
        return running[0]
    if not running:
        raise UserError(f"no run in {work_dir} is being trained; --work-dir=FOLDER names another folder")
    names = ", ".join(path.name for path in running)
    raise UserError(f"{len(running)} runs are being trained: name one with --run=NAME, of {names}")
