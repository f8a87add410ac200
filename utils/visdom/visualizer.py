"""Draw a run in visdom without ever waiting for it.

What is drawn is first written to the run's record (events.jsonl); a daemon thread then sends it to the server. Without
a server the run continues, and a server started later (`make visdom`) shows the whole run, drawn from the record.
"""

import atexit
import functools
import inspect
import json
import math
import os
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any

from .screen import Screen, Unreachable, gather, key_of, read_events

RETRY = 5.0  # seconds between two attempts to reach the server
UNWRITTEN = 10_000  # lines of the record that wait for disk space
QUEUE = 1000  # calls that wait for the server; with a record, further points are drawn from there
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

    record: path of the run's events.jsonl, or None (notebook); kwargs are passed to visdom.Visdom.
    """

    def __init__(
        self,
        env: str = "default",
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
        self._wake, self._closing, self._stale = threading.Condition(), False, False
        self._thread: threading.Thread | None = None
        # name -> x of its next point; a resumed run adds to the curves of its record
        groups = gather(read_events(self.record)) if self.record else {}
        self.index = {name: math.floor(max(what)) + 1 for (kind, name), what in groups.items() if kind == "plot"}
        self.reinit(env)

    def reinit(self, env: str = "default", **kwargs: Any) -> "Visualizer":
        """Change the env (or port, server, ...); a run with a record moves there completely. Returns self."""
        if not self._foreign():
            with self._wake:
                self._options.update(kwargs)
                self.env = str(env).replace("/", "_")  # as the server does
                self._screen = Screen(self.env, self._options, self.record)
                self._drawer: Any = None
                self._stale = bool(self.record)
                if self.record:  # goes into the record with the first event
                    self._unwritten.append(_line({"time": time.time(), "kind": "env", "env": self.env}))
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
            self._screen.plot_options[name] = kwargs
            self._put({"time": time.time(), "kind": "plot", "name": name, "x": x, "y": y})

    def plot_many(self, d: dict[str, Any], x: Any = None) -> None:
        """plot_many({'loss': 0.11, 'lr': 0.01})"""
        for name, y in d.items():
            self.plot(name, y, x)

    @_harmless
    def img(self, name: str, img_: Any, nrow: int = 8, padding: int = 2, **kwargs: Any) -> None:
        """img('input', tensor): HxW, CxHxW or NxCxHxW (a grid, nrow wide), uint8 0..255 or float 0..1."""
        event = {"time": time.time(), "kind": "image", "name": name}
        pixels = _picture(img_, kwargs.pop("nrows", nrow), padding)  # the book writes nrows
        file = self.record and self._save(name, pixels)
        if file:
            self._put({**event, "file": file}, options=kwargs)
        else:
            self._put(event, pixels=pixels, options=kwargs)

    def img_many(self, d: dict[str, Any]) -> None:
        """img_many({'input': tensor, 'output': tensor})"""
        for name, img_ in d.items():
            self.img(name, img_)

    @_harmless
    def log(self, info: Any, win: str = "log_text") -> None:
        """log({'loss': 1, 'lr': 0.0001}): one more line of HTML, '[mmdd_HHMMSS] info'; the last LINES are shown."""
        self._put({"time": time.time(), "kind": "log", "win": win, "text": str(info)})

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

        if self._drawer is None:
            self._drawer, seen = visdom.Visdom(env=self.env, send=False, use_incoming_socket=False), set[str]()
            # visdom asks whether a window exists, to add to it: the first call for a window creates it
            self._drawer.win_exists = lambda win, env=None: win in seen or bool(seen.add(win))  # type: ignore
        method = getattr(visdom.Visdom, name)
        call = inspect.signature(method).bind(self._drawer, *args, **kwargs)
        if "win" in inspect.signature(method).parameters and call.arguments.get("win") is None:
            call.arguments["win"] = f"window_{uuid.uuid4().hex}"
        self._put({"kind": "call"}, message=method(*call.args, **call.kwargs))
        return call.arguments.get("win")

    def _write(self, *events: dict[str, Any]) -> bool:
        """Append events to the record, after those that could not be written before. Returns False on failure."""
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
            self._unwritten.clear()
            return True
        except OSError as error:
            self._screen.warn("record", f"cannot write {self.record} ({error}): new events wait; the run continues")
            return False

    def _save(self, name: str, pixels: Any) -> str | None:
        """Write a picture beside the record. Returns its path relative to it, or None on failure."""
        from PIL import Image

        folder, file = os.path.dirname(self.record), re.sub(r"[^\w.-]", "_", name)[:80] + f"_{time.time_ns()}.png"
        try:
            os.makedirs(os.path.join(folder, "images"), exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(os.path.join(folder, "images", file))
            return f"images/{file}"
        except OSError as error:
            self._screen.warn("record", f"cannot write {file} in {folder} ({error}); the run continues")
            return None

    def _put(self, event: dict[str, Any], **extra: Any) -> None:
        """Record an event, then queue it; calls and unsaved pictures cannot be recorded."""
        with self._wake:
            recorded = bool(self.record) and not {"message", "pixels"} & extra.keys() and self._write(event)
            if self.record and len(self._queue) == QUEUE:
                self._stale = True
                self._queue = deque((e for e in self._queue if not e["recorded"]), QUEUE)
            if not (recorded and self._stale):  # the next replay draws what is recorded
                self._queue.append({**event, **extra, "recorded": recorded})
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="visualizer", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            self._wake.notify()

    def _run(self) -> None:
        reached = True
        while True:
            with self._wake:
                if not reached:
                    self._wake.wait_for(lambda: self._closing, RETRY)
                self._wake.wait_for(lambda: self._queue or self._stale or self._closing)
                if not self._queue and not self._stale:
                    return
                last = self._closing  # one more attempt is made after close
            reached = self._flush(self._screen)
            if last and not reached:
                return

    def _flush(self, screen: Screen) -> bool:
        """Draw everything that waits. Returns False without a server; then it keeps waiting."""
        batch: list[dict[str, Any]] = []
        groups: dict[tuple[str, Any], Any] = {}
        try:
            screen.connect()
            with self._wake:
                if screen is not self._screen:  # reinit was called meanwhile
                    return True
                due, self._stale = self._stale, False
                end = os.path.getsize(self.record) if due and os.path.exists(self.record) else 0
                batch = [event for event in self._queue if not (due and event["recorded"])]
                self._queue.clear()
            groups = gather(batch)
            if due:
                screen.replay(end)
            for key in list(groups):
                if screen.draw(key, groups[key]) is False:
                    self._stale = True
                del groups[key]
        except Unreachable as error:
            screen.client, url = None, "{server}:{port}".format(**screen.options)
            kept = f", recorded in {self.record}" if self.record else ""
            screen.warn("server", f"no server at {url} ({error}); the run continues{kept}. To see it: make visdom")
            with self._wake:
                self._stale = bool(self.record)
                undone = [event for event in batch if not event["recorded"] and key_of(event) in groups]
                self._queue = deque([*undone, *self._queue], QUEUE)
            return False
        except Exception as error:
            screen.warn("draw", f"cannot draw: {error!r}")
        return True
