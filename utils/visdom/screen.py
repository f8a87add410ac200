"""Reading a run's record and drawing it on a visdom server, with timeouts."""

import json
import logging
import math
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from utils.notices import once, warn

TIMEOUT = (2.0, 5.0)  # seconds to connect, to answer
LINES = 200  # lines of log shown
LOG_STYLE = "color: black; font: 12px/1.5 monospace"
LOG_WIDTH = 752  # pixels, as two curves: room for an epoch in a line
LOCAL = "http://localhost", "http://127.0.0.1"  # servers of this machine
FEW = 30  # points of a curve up to which each one is marked


class Unreachable(Exception):
    """No visdom server answers. Not a ConnectionError: visdom catches those and prints."""

    TEXT = "no server at {url} ({error}); the run continues{kept}. To see it: make visdom"


class OtherUser(Unreachable):
    """The server is another user's, in which nothing may be drawn."""

    TEXT = (
        "the server at {url} belongs to {error}, and nothing is drawn there; the run continues{kept}. To see it, "
        "choose another port: --vis-port=N, and python -m utils.visdom.server --port=N"
    )


def read_events(record: str | os.PathLike[str], start: int = 0, size: int = -1) -> Iterator[dict[str, Any]]:
    """Yield the events (dicts) of a record, or of `size` bytes of it from `start` on; none of a missing file."""
    with suppress(OSError), open(record, "rb") as file:
        file.seek(start)
        for line in file.read(size).splitlines():
            with suppress(ValueError):  # a run killed while writing leaves a partial line
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event


def other_user(port: int) -> str | None:
    """The user whose program listens on a port of this machine, unless it is this process's user. None where none
    listens, and where the system does not say: only Linux does."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError), open(table) as file:
            for row in list(file)[1:]:
                _, local, _, state, _, _, _, user, *_ = row.split()
                if state == "0A" and int(local.rpartition(":")[2], 16) == port and int(user) != os.getuid():
                    import pwd

                    with suppress(KeyError):
                        return f"the user {pwd.getpwuid(int(user)).pw_name}"
                    return f"the user {user}"
    return None


def connect(env: str, options: dict[str, Any]) -> Any:
    """A visdom client that gives up after TIMEOUT and raises Unreachable where visdom would print. Raises OtherUser for
    a server of another user of this machine."""
    import requests
    import visdom

    owner = other_user(options["port"]) if options["server"] in LOCAL else None
    if owner:
        raise OtherUser(owner)
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


class Curve(NamedTuple):
    """What the window of a plot shows: its last x, the number of points, the smallest and the largest y."""

    last: float = -math.inf
    number: int = 0
    low: float = math.inf
    high: float = -math.inf

    def extended(self, points: dict[float, Any]) -> "Curve":
        """The curve with more points, {x: y or None}."""
        ys = [y for y in points.values() if y is not None]
        return Curve(max(points), self.number + len(points), min([self.low, *ys]), max([self.high, *ys]))

    def style(self) -> dict[str, Any]:
        """visdom's opts: a mark at every point while they are few, because a single one is no line, and an axis from 0
        for a constant, which plotly would draw on an axis from -1 to 1."""
        axis = {"rangemode": "tozero" if self.low == self.high else "normal"}
        template = {"template": {"layout": {"yaxis": axis}}}  # a default: what a caller sets for the axis stays
        return {"markers": self.number <= FEW, "markersize": 5, "layoutopts": {"plotly": template}}


class Screen:
    """One env on the server and what its windows show; connect, draw_record and draw raise Unreachable."""

    def __init__(self, env: str, options: dict[str, Any], record: Any = None):
        self.env, self.options, self.record = env, options, record
        self.client: Any = None
        self.keywords: dict[str, dict[str, Any]] = {}  # name -> what plot or img was given for visdom
        self.drawn = 0  # bytes of the record that are shown; 0: all of it must be drawn again
        self.curves: dict[str, Curve] = {}  # by name
        self.lines: dict[str, deque[str]] = {}  # win -> lines of log drawn

    def warn(self, topic: str, text: str) -> None:
        """Print a warning, once per topic."""
        if once(topic, owner=self):
            warn("visdom: " + " ".join(text.split())[:500])

    def connect(self) -> None:
        """Connect to the server, unless there is a connection."""
        try:
            self.client = self.client or connect(self.env, self.options)
        except OtherUser:
            raise
        except Exception as error:  # also an invalid answer, a wrong keyword, no visdom installed
            raise Unreachable(str(error)) from error

    def draw_record(self, start: int, end: int) -> None:
        """Draw the record from byte `start` to byte `end`; from 0 on, it replaces what was shown."""
        self.drawn = end
        if start == 0:
            self.curves.clear()
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

    def _keywords(self, name: str, **opts: Any) -> dict[str, Any]:
        """What a window gets besides its data; what the caller of plot or img gave comes first."""
        keywords = self.keywords.get(name, {})
        return {**keywords, "opts": {"title": name, **opts, **keywords.get("opts", {})}}

    def _draw_plot(self, name: str, points: dict[float, Any]) -> None:
        import numpy as np

        shown = self.curves.get(name, Curve())
        there = shown.number and self.client.win_exists(name, self.env)
        if self.drawn and shown.number and (min(points) <= shown.last or not there):
            self.drawn = 0  # a resumed run repeats points, or the server was restarted and is empty
            return
        curve = (shown if there else Curve()).extended(points)
        append = there and curve.style() == shown.style()
        if there and not append:  # visdom appends points, but keeps the style: draw the window again
            line = json.loads(self.client.get_window_data(name))["content"]["data"][0]
            points = dict(zip(line["x"], line["y"], strict=True)) | points
        xs, ys = zip(*sorted(points.items()), strict=True)
        keywords = self._keywords(name, **curve.style())
        y = np.array(ys, dtype=float)  # None becomes nan
        self.client.line(Y=y, X=np.array(xs), win=name, update="append" if append else None, **keywords)
        self.curves[name] = curve

    def _draw_log(self, win: str, lines: Iterable[str]) -> None:
        shown = deque([*self.lines.get(win, ()), *lines], LINES)
        text = f'<div style="{LOG_STYLE}">{"".join(shown)}</div>'
        self.client.text(text, win=win, opts={"title": win, "width": LOG_WIDTH})
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
