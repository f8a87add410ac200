"""A command of the user's when a run gets better, ends or fails: mail, a chat's hook, a sound."""

import os
import shlex
import shutil
import subprocess
import tempfile
from typing import Any

from utils import UserError
from utils.events import Callback
from utils.notices import once, warn
from utils.run.run import monitored

PATIENCE = 10.0  # seconds that the end of a run waits for the commands


class Notify(Callback):
    """Starts `notify` with one more argument, a line of text, which is also its standard input, and goes on without
    waiting; the environment has HEARTH_EVENT (best, finished, stopped or failed) and HEARTH_RUN, the run's folder.
    What it prints is dropped. A command that fails or does not end is a warning. Raises UserError for a command that is
    not there, and for that of another user's run.

    Args:
        run: the Run.
        notify: the command, words as a shell reads them; there is no shell.
        monitor: name of the measure that is best, or None for the one that selects best.pth.
    """

    def __init__(self, run: Any, notify: str, monitor: str | None = None):
        if hasattr(os, "getuid") and os.stat(run.folder).st_uid != os.getuid():
            raise UserError(f"--notify={notify}: {run.folder} is another user's run, whose command is not started")
        try:
            command = shlex.split(notify)
        except ValueError as error:  # a quotation without an end
            raise UserError(f"--notify={notify}: {error}") from None
        if not command or not shutil.which(command[0]):
            raise UserError(f"--notify={notify}: there is no such command here")
        self.run, self.notify, self.command, self.monitor = run, notify, command, monitor
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
                self._check(one.wait(PATIENCE))
            except subprocess.TimeoutExpired:
                one.kill()
                self._check("none yet: it is ended")

    def tell(self, event: str, text: str) -> None:
        """Start the command; look at those that were started before."""
        for one in self.started:
            self._check(one.poll())
        told = {**os.environ, "HEARTH_EVENT": event, "HEARTH_RUN": str(self.run.folder)}
        line, nothing = f"{self.run.folder.name}: {text}", subprocess.DEVNULL
        with tempfile.TemporaryFile() as file:  # no pipe: the command may end without reading it
            file.write(os.fsencode(f"{line}\n"))
            file.seek(0)
            one = subprocess.Popen([*self.command, line], env=told, stdin=file, stdout=nothing, stderr=nothing)
        self.started.append(one)

    def _check(self, code: int | str | None) -> None:
        """Warn, once, unless the command has ended with exit code 0, or has not ended (None)."""
        if code and once("failing", owner=self):
            hint = "it gets the line as its last argument and on its standard input; for a shell write sh -c '...'"
            warn(f"--notify={self.notify}: exit code {code}; {hint}")
