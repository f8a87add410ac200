"""A command of the user's when a run gets better, ends or fails: mail, a chat's hook, a sound."""

import os
import shlex
import subprocess
from typing import Any

from utils import UserError
from utils.events import Callback
from utils.run.run import monitored

PATIENCE = 10.0  # seconds that the end of a run waits for the commands


class Notify(Callback):
    """Starts `notify` with one more argument, a line of text, and goes on without waiting; the environment has
    HEARTH_EVENT (best, finished, stopped or failed) and HEARTH_RUN, the run's folder. What it prints is dropped, and a
    command that cannot be started is a warning. Raises UserError for the command of another user's run.

    Args:
        run: the Run.
        notify: the command, words as a shell reads them; there is no shell.
        monitor: name of the measure that is best, or None for the one that selects best.pth.
    """

    def __init__(self, run: Any, notify: str, monitor: str | None = None):
        if hasattr(os, "getuid") and os.stat(run.folder).st_uid != os.getuid():
            raise UserError(f"--notify={notify}: {run.folder} is another user's run, whose command is not started")
        self.run, self.command, self.monitor = run, shlex.split(notify), monitor
        self.started: list[subprocess.Popen[bytes]] = []

    def on_epoch_end(self, metrics: dict[str, float], **_: Any) -> None:
        name, best = monitored(metrics, self.monitor), self.run.best  # that of the epochs before
        value = metrics.get(name, float("nan"))
        if best is not None and (value < best if name.endswith("loss") else value > best):
            self.tell("best", f"epoch {metrics['epoch']}: {name} {value:.4g}, {best:.4g} before")

    def on_train_end(self, finished: bool, error: BaseException | None, **_: Any) -> None:
        event = "finished" if finished else "failed" if error else "stopped"
        reason = f" ({type(error).__name__}: {error})" if error else ""
        best = "" if self.run.best is None else f", best {self.run.best:.4g}"
        self.tell(event, f"{event} after {self.run.epoch} epochs{best}{reason}")
        for one in self.started:
            try:
                one.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                one.kill()

    def tell(self, event: str, text: str) -> None:
        """Start the command."""
        told = {**os.environ, "HEARTH_EVENT": event, "HEARTH_RUN": str(self.run.folder)}
        nothing = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.started.append(
            subprocess.Popen([*self.command, f"{self.run.folder.name}: {text}"], env=told, **nothing)  # type: ignore
        )
