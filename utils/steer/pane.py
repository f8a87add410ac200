"""The commands of `control` as fields and buttons in visdom, in the environment of the run that is being trained."""

import threading
from contextlib import suppress
from typing import Any

from utils import UserError
from utils.notices import note
from utils.visdom.screen import connect

from .channel import Listener
from .client import COMMANDS, said

WINDOW = "control"
LOOK = 5.0  # seconds between two looks for a server, or whether it still has the pane
CLOSING = 2.0  # seconds that the end of a run waits for the pane to be removed
FIELDS = ("lr", "freeze", "unfreeze", "max_epoch", "print_freq")
BUTTONS = tuple(name for name in COMMANDS if name not in FIELDS)


class Pane:
    """Hands what is typed or clicked to the Listener, as `control` does, and shows the answer. All of it is done by
    threads of its own: no step waits for a server, and without one nothing happens.

    Args:
        listener: the Listener, whose requests are answered after the step.
        opt: the options: env, vis_port, and the check of values.
        run: the name of the run's folder.
    """

    def __init__(self, listener: Listener, opt: Any, run: str):
        self.listener, self.opt = listener, opt
        self.env, self.port = str(opt.env or run).replace("/", "_"), opt.vis_port
        self.answer = ""
        self.client: Any = None
        self.changed, self.closing, self.thread = threading.Event(), False, threading.Thread(target=self._run)
        self.thread.daemon = True

    def open(self) -> None:
        """Begin to look for a server."""
        self.thread.start()

    def close(self) -> None:
        """Remove the pane, where there is one."""
        self.closing = True
        self.changed.set()
        if self.client:
            self.thread.join(CLOSING)

    def _run(self) -> None:
        while not self.closing:
            changed = self.changed.is_set()
            self.changed.clear()
            with suppress(Exception):  # no server, or one that fails: the Visualizer has the warning
                self._show(changed)
            self.changed.wait(LOOK)
        if self.client:
            self.client.use_socket = False
            with suppress(Exception):  # the server is gone
                self.client.close(win=WINDOW, env=self.env)

    def _show(self, changed: bool) -> None:
        """Connect, unless that is done, and draw where something changed or the server has no pane."""
        if not self.client:
            self.client = connect(self.env, {"port": self.port, "server": "http://localhost"})
            self.client.event_handlers[WINDOW] = [self._hear]
            self.client.use_socket = True  # not in its constructor, which waits for it, and prints
            self.client.setup_socket()
        if not changed and self.client.win_exists(WINDOW, self.env):
            return
        rows = [{"type": "text", "name": name, "value": ""} for name in FIELDS]
        rows += [{"type": "button", "name": name, "value": name} for name in BUTTONS]
        rows.append({"type": "text", "name": "answer", "value": self.answer or self.listener.status()})
        self.client.properties(rows, win=WINDOW, env=self.env, opts={"title": WINDOW, "width": 500, "height": 420})

    def _hear(self, event: dict[str, Any]) -> None:
        """What visdom's socket brings: every program gets what was done in any environment."""
        number = event.get("propertyId")
        if event.get("event_type") != "PropertyUpdate" or event.get("eid") != self.env or not isinstance(number, int):
            return
        if not 0 <= number < len(FIELDS + BUTTONS):  # the answer
            return
        name = (FIELDS + BUTTONS)[number]
        try:
            value = str(event.get("value")) if name in FIELDS else True
            command = said(self.opt.root().load({name: value}, command="control"))
        except UserError as error:
            self._tell(str(error))
        else:
            self.listener.ask(command, self._tell)

    def _tell(self, text: str) -> None:
        note(f"visdom's pane: {text}")
        self.answer = text
        self.changed.set()
