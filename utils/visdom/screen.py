"""Reading a run's record and drawing it on a visdom server, with timeouts."""

import json
import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from utils.notices import once, warn

TIMEOUT = (2.0, 5.0)  # seconds to connect, to answer
LINES = 200  # lines of log shown


class Unreachable(Exception):
    """No visdom server answers. Not a ConnectionError: visdom catches those and prints."""


def read_events(record: str | os.PathLike[str], start: int = 0, size: int = -1) -> Iterator[dict[str, Any]]:
    """Yield the events (dicts) of a record, or of `size` bytes of it from `start` on; none of a missing file."""
    with suppress(OSError), open(record, "rb") as file:
        file.seek(start)
        for line in file.read(size).splitlines():
            with suppress(ValueError):  # a run killed while writing leaves a partial line
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event


def replay(
    record: str | os.PathLike[str], env: str | None = None, port: int = 8097, server: str = "http://localhost"
) -> str:
    """Draw a whole record, replacing its windows, in `env` or the record's. Returns the env. Raises Unreachable or
    OSError."""
    envs = ["default", *(event["env"] for event in read_events(record) if event.get("kind") == "env")]
    screen = Screen(env or envs[-1], {"port": port, "server": server}, record)
    screen.connect()
    for _ in range(3):  # a live run may add points meanwhile: draw again with them
        size = os.path.getsize(record)
        screen.draw_record(0, size)
        if os.path.getsize(record) == size:
            break
    return screen.env


def connect(env: str, options: dict[str, Any]) -> Any:
    """A visdom client that gives up after TIMEOUT and raises Unreachable where visdom would print."""
    import requests
    import visdom

    logging.getLogger("visdom").setLevel(logging.CRITICAL)  # it logs each new session

    class Client(visdom.Visdom):
        session: Any

        def _handle_post(self, url: str, data: Any = None) -> str:
            try:
                self.session.trust_env = False  # an internet proxy must not be used for this server
                reply = self.session.post(url, data=data, timeout=TIMEOUT)
            except requests.RequestException as error:
                raise Unreachable(type(error).__name__) from error
            if not reply.ok:
                raise RuntimeError(f"the server answered {reply.status_code}")
            return reply.text

    client = Client(env=env, **{**options, "use_incoming_socket": False, "raise_exceptions": True})
    if client.win_exists("") is None:
        raise Unreachable("what answers there is not visdom")
    return client


def key_of(event: dict[str, Any]) -> tuple[str, Any]:
    """(kind, name) of what an event is drawn into."""
    return event["kind"], event.get("name", event.get("win", id(event)))


def gather(events: Iterable[dict[str, Any]]) -> dict[tuple[str, Any], Any]:
    """{(kind, name): what to draw}: for a plot {x: last y}, for a log its last lines, else the newest event."""
    groups: dict[tuple[str, Any], Any] = {}
    for event in events:
        try:
            if event["kind"] == "plot":
                x, y = float(event["x"]), event["y"]
                groups.setdefault(key_of(event), {})[x] = y
            elif event["kind"] == "log":
                stamp = time.strftime("%m%d_%H%M%S", time.localtime(event["time"]))
                groups.setdefault(key_of(event), deque(maxlen=LINES)).append(f"[{stamp}] {event['text']} <br>")
            elif event["kind"] in ("image", "call"):
                groups[key_of(event)] = event
        except Exception:  # other programs may have edited the file
            continue
    return groups


class Screen:
    """One env on the server and what its windows show; connect, draw_record and draw raise Unreachable."""

    def __init__(self, env: str, options: dict[str, Any], record: Any = None):
        self.env, self.options, self.record = env, options, record
        self.client: Any = None
        self.keywords: dict[str, dict[str, Any]] = {}  # name -> what plot or img was given for visdom
        self.drawn = 0  # bytes of the record that are shown; 0: all of it must be drawn again
        self.last_x: dict[str, float] = {}  # name -> last x drawn
        self.lines: dict[str, deque[str]] = {}  # win -> lines of log drawn

    def warn(self, topic: str, text: str) -> None:
        """Print a warning, once per topic."""
        if once(topic, owner=self):
            warn("visdom: " + " ".join(text.split())[:500])

    def connect(self) -> None:
        """Connect to the server, unless there is a connection."""
        try:
            self.client = self.client or connect(self.env, self.options)
        except Exception as error:  # also an invalid answer, a wrong keyword, no visdom installed
            raise Unreachable(str(error)) from error

    def draw_record(self, start: int, end: int) -> None:
        """Draw the record from byte `start` to byte `end`; from 0 on, it replaces what was shown."""
        self.drawn = end
        if start == 0:
            self.last_x.clear()
            self.lines.clear()
        for key, what in gather(read_events(self.record, start, end - start)).items():
            self.draw(key, what)

    def draw(self, key: tuple[str, Any], what: Any) -> None:
        """Draw one group of gather."""
        try:
            getattr(self, "_draw_" + key[0])(key[1], what)
        except Unreachable:
            raise
        except Exception as error:  # visdom asserts shapes, the server may refuse: neither may stop the thread
            topic = key[0] if key[0] == "call" else f"{key[0]} {key[1]}"
            self.warn(topic, f"cannot draw {topic}: {error!r}")

    def _keywords(self, name: str) -> dict[str, Any]:
        """What a window gets besides its data."""
        keywords = self.keywords.get(name, {})
        return {**keywords, "opts": {"title": name, **keywords.get("opts", {})}}

    def _draw_plot(self, name: str, points: dict[float, Any]) -> None:
        import numpy as np

        xs, ys = zip(*sorted(points.items()), strict=True)
        known = name in self.last_x
        if self.drawn and known and (xs[0] <= self.last_x[name] or not self.client.win_exists(name, self.env)):
            self.drawn = 0  # a resumed run repeats points, or the server was restarted and is empty
            return
        y = np.array(ys, dtype=float)  # None becomes nan
        self.client.line(Y=y, X=np.array(xs), win=name, update="append" if known else None, **self._keywords(name))
        self.last_x[name] = xs[-1]

    def _draw_log(self, win: str, lines: Iterable[str]) -> None:
        shown = deque([*self.lines.get(win, ()), *lines], LINES)
        self.client.text("".join(shown), win=win)
        self.lines[win] = shown

    def _draw_image(self, name: str, event: dict[str, Any]) -> None:
        import numpy as np
        from PIL import Image

        pixels = event.get("pixels")
        if pixels is None:
            pixels = np.array(Image.open(os.path.join(os.path.dirname(self.record), event["file"]))).transpose(2, 0, 1)
        self.client.image(pixels, win=name, **self._keywords(name))

    def _draw_call(self, _: Any, event: dict[str, Any]) -> None:
        self.client._send(*event["message"])
