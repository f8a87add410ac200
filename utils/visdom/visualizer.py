"""Draw a run in visdom without ever waiting for it.

What is drawn is first written to the run's record (events.jsonl); a daemon thread then sends it to the server. Without
a server the run continues, and a server started later (`make visdom`) shows the whole run, drawn from the record.
"""

import atexit
import functools
import itertools
import json
import math
import os
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .screen import Screen, Unreachable, gather, key_of, read_events

RETRY = 5.0  # seconds between two attempts to reach the server
UNWRITTEN = 10_000  # lines of the record that wait for disk space
QUEUE = 1000  # events that wait for the server without being in a record
QUESTIONS = ("get_window_data", "set_window_data", "get_env_list", "win_exists", "win_hash", "check_connection")


def _number(value: Any) -> float | None:
    """A number, 0-d tensor or array as a Python number; None for nan and inf, which JSON does not support."""
    value = value.item() if hasattr(value, "item") else value
    value = value if type(value) is int else float(value)
    return value if math.isfinite(value) else None


def _picture(tensor: Any, nrow: int = 8, padding: int = 2) -> Any:
    """HxW, CxHxW or NxCxHxW (drawn as a grid), uint8 0..255 or float 0..1 -> uint8 array 3xH'xW'."""
    import torch
    from torchvision.utils import make_grid

    pixels = torch.as_tensor(tensor).detach().cpu()
    if pixels.is_floating_point() or pixels.dtype == torch.bool:
        pixels = pixels.float().nan_to_num().clamp(0, 1).mul(255).round()
    return make_grid(pixels.clamp(0, 255).to(torch.uint8), nrow, padding, pad_value=255).numpy()


def _line(event: dict[str, Any]) -> bytes:
    """An event as a line of the record."""
    return json.dumps(event, allow_nan=False).encode() + b"\n"


def _harmless(method: Callable[..., Any]) -> Callable[..., Any]:
    """Drawing must not end a run: an error is one warning, and in a worker, which has only a copy, nothing is done."""

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._foreign():
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                topic = " ".join([method.__name__.strip("_"), *(arg for arg in args[:1] if isinstance(arg, str))])
                self._screen.warn(topic, f"cannot draw {topic}: {error!r}")

    return wrapped


class Visualizer:
    """visdom, as in the book, but it never blocks and never ends a run.

    plot, img and log draw and record; every other drawing call of visdom (`vis.text('hello')`,
    `vis.histogram(torch.randn(1000))`) is passed on and returns its window.

    env: None is the name of the record's folder, without a record "default". record: path of the run's events.jsonl, or
    None (notebook); kwargs are passed to visdom.Visdom.
    """

    def __init__(
        self,
        env: str | None = None,
        port: int = 8097,
        record: Any = None,
        server: str = "http://localhost",
        **kwargs: Any,
    ):
        self._pid = os.getpid()
        self.record = record and os.path.abspath(record)
        self._options: dict[str, Any] = {"port": port, "server": server, **kwargs}
        self._queue: deque[dict[str, Any]] = deque(maxlen=QUEUE)
        self._unwritten: deque[bytes] = deque(maxlen=UNWRITTEN)  # lines of the record
        self._wake, self._closing = threading.Condition(), False
        self._thread: threading.Thread | None = None
        self._numbers: dict[str, Iterator[int]] = {}  # by name, of pictures to save; a resumed run's follow its first
        self._size = os.path.getsize(self.record) if self.record and os.path.exists(self.record) else 0  # of the record
        # name -> x of its next point; a resumed run adds to the curves of its record
        groups = gather(read_events(self.record)) if self.record else {}
        self.index = {name: math.floor(max(what)) + 1 for (kind, name), what in groups.items() if kind == "plot"}
        self.reinit(env or (os.path.basename(os.path.dirname(self.record)) if self.record else "default"))

    def reinit(self, env: str = "default", **kwargs: Any) -> "Visualizer":
        """Change the env (or port, server, ...); a run with a record moves there completely. Returns self."""
        if not self._foreign():
            with self._wake:
                self._options.update(kwargs)
                self.env = str(env).replace("/", "_")  # as the server does
                self._screen = Screen(self.env, self._options, self.record)
                self._windows: set[str] = set()  # of calls
                if self.record:  # goes into the record with the first event
                    where = {"env": self.env, "port": self._options["port"]}
                    self._unwritten.append(_line({"time": time.time(), "kind": "env", **where}))
        return self

    @property
    def vis(self) -> Any:
        """The visdom client, or None while there is no connection."""
        return None if self._foreign() else self._screen.client

    @_harmless
    def plot(self, name: str, y: Any, x: Any = None, **kwargs: Any) -> None:
        """plot('loss', 1.00): one more point. y, x: numbers or 0-d tensors; without x, points are counted."""
        y, x = _number(y), None if x is None else _number(x)
        with self._wake:
            count = self.index.get(name, 0)
            x = count if x is None else x
            self.index[name] = max(count, math.floor(x) + 1)
            self._screen.keywords[name] = kwargs
            self._put("plot", name=name, x=x, y=y)

    def plot_many(self, d: dict[str, Any], x: Any = None) -> None:
        """plot_many({'loss': 0.11, 'lr': 0.01})"""
        for name, y in d.items():
            self.plot(name, y, x)

    @_harmless
    def img(self, name: str, img_: Any, nrow: int = 8, padding: int = 2, **kwargs: Any) -> None:
        """img('input', tensor): HxW, CxHxW or NxCxHxW (a grid, nrow wide), uint8 0..255 or float 0..1."""
        pixels = _picture(img_, kwargs.pop("nrows", nrow), padding)  # the book writes nrows
        self._screen.keywords[name] = kwargs
        shown = self._save(name, pixels) if self.record else {"pixels": pixels}
        self._put("image", name=name, **shown)

    def img_many(self, d: dict[str, Any]) -> None:
        """img_many({'input': tensor, 'output': tensor})"""
        for name, img_ in d.items():
            self.img(name, img_)

    @_harmless
    def log(self, info: Any, win: str = "log_text") -> None:
        """log({'loss': 1, 'lr': 0.0001}): one more line of HTML, '[mmdd_HHMMSS] info'; the last LINES are shown."""
        self._put("log", win=win, text=str(info))

    @_harmless
    def close(self, timeout: float = 3.0) -> None:
        """Send what waits, for at most `timeout` seconds. Later calls are recorded, not drawn."""
        with self._wake:
            self._closing = True
            if self._unwritten:
                self._write()
            self._wake.notify()
        atexit.unregister(self.close)
        if self._thread:
            self._thread.join(timeout)

    def __getattr__(self, name: str) -> Any:
        # Called only for names that are not ours. It asks visdom's class, not a client: that needs no server, and
        # cannot recurse in an object without attributes (copied, unpickled, __init__ failed).
        if not name.startswith("_"):
            import visdom

            if callable(getattr(visdom.Visdom, name, None)):
                return getattr(self.vis, name) if name in QUESTIONS else functools.partial(self._call, name)
        raise AttributeError(f"neither Visualizer nor visdom has {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # a copy sent to a worker does nothing

    def _foreign(self) -> bool:
        return self.__dict__.get("_pid") != os.getpid()

    @_harmless
    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Let visdom make its message now, because the data may change; the thread sends it."""
        import visdom

        drawer, seen = visdom.Visdom(env=self.env, send=False, use_incoming_socket=False), self._windows
        # visdom asks whether a window exists, to add to it: the first call for a window creates it
        drawer.win_exists = lambda win, env=None: win in seen or bool(seen.add(win))  # type: ignore
        message, endpoint = getattr(drawer, name)(*args, **kwargs)
        if "win" in message and message["win"] is None:
            message["win"] = f"window_{uuid.uuid4().hex}"
        self._put("call", message=(message, endpoint))
        return message.get("win")

    def _write(self, *events: dict[str, Any]) -> bool:
        """Append events to the record, after those that could not be written before. Returns whether all are there."""
        self._unwritten.extend(map(_line, events))
        try:
            os.makedirs(os.path.dirname(self.record), exist_ok=True)
            with open(self.record, "ab+", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(0, end - 1))
                start = b"" if file.read(1) in (b"", b"\n") else b"\n"  # after a partial line, start a new one
                lines = start + b"".join(self._unwritten)
                if file.write(lines) != len(lines):
                    file.truncate(end)
                    raise OSError("disk full")
            self._size = end + len(lines)
            if len(self._unwritten) > len(events):  # those that had to wait were drawn without the record
                self._screen.drawn = 0
            self._unwritten.clear()
        except OSError as error:
            self._screen.warn("record", f"cannot write {self.record} ({error}): new events wait; the run continues")
        return not self._unwritten

    def _save(self, name: str, pixels: Any) -> dict[str, Any]:
        """Write a picture beside the record. Returns its file (relative to the record) for the event, or its pixels."""
        from PIL import Image

        folder, stem = os.path.dirname(self.record), re.sub(r"[^\w.-]", "_", name)[:80]
        names = (f"{stem}_{number:03d}.png" for number in self._numbers.setdefault(stem, itertools.count(1)))
        file = next(name for name in names if not os.path.exists(os.path.join(folder, "images", name)))
        try:
            os.makedirs(os.path.join(folder, "images"), exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(os.path.join(folder, "images", file))
            return {"file": f"images/{file}"}
        except OSError as error:
            self._screen.warn("record", f"cannot write {file} in {folder} ({error}); the run continues")
            return {"pixels": pixels}

    def _put(self, kind: str, **event: Any) -> None:
        """Record an event, or queue what is not recorded: calls and unsaved pictures can only be drawn."""
        event = {"time": time.time(), "kind": kind, **event}
        with self._wake:
            if not self.record or {"message", "pixels"} & event.keys() or not self._write(event):
                self._queue.append(event)
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="visualizer", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            self._wake.notify()

    def _waits(self) -> bool:
        """Whether anything is still to be drawn."""
        return bool(self._queue) or self._screen.drawn != self._size

    def _run(self) -> None:
        reached, last = True, False
        while reached or not last:
            with self._wake:
                self._wake.wait_for(lambda: self._closing, 0 if reached else RETRY)
                self._wake.wait_for(lambda: self._waits() or self._closing)
                if not self._waits():
                    return
                last = self._closing  # one more attempt is made after close
                screen, size, batch = self._screen, self._size, self._queue
                self._queue = deque(maxlen=QUEUE)
            reached = self._flush(screen, size, batch)

    def _flush(self, screen: Screen, size: int, batch: Iterable[dict[str, Any]]) -> bool:
        """Draw the record up to `size`, then a batch of the queue. Returns False without a server; then both wait."""
        done: set[tuple[str, Any]] = set()
        try:
            screen.connect()
            if screen.drawn != size:
                screen.draw_record(screen.drawn, size)
            for key, what in gather(batch).items():
                screen.draw(key, what)
                done.add(key)
        except Unreachable as error:
            screen.client, screen.drawn = None, 0
            url = "{server}:{port}".format(**screen.options)
            kept = f", recorded in {self.record}" if self.record else ""
            screen.warn("server", error.TEXT.format(url=url, error=error, kept=kept))
            with self._wake:
                undone = [event for event in batch if key_of(event) not in done]
                self._queue = deque([*undone, *self._queue], QUEUE)
            return False
        return True
