"""Draw a run in visdom without ever waiting for it.

What is drawn is first written to the run's record (events.jsonl); a daemon thread then sends it to the server. With no
server the run goes on, and a server started later (`make visdom`) shows the whole run, drawn from the record.
"""

import atexit
import functools
import inspect
import json
import logging
import math
import os
import re
import sys
import threading
import time
import uuid
from collections import deque

RETRY = 5.0  # seconds between two attempts to reach the server
TIMEOUT = (2.0, 5.0)  # seconds to connect, to answer
QUEUE = 1000  # calls that wait for the server; with a record, points that fit no more are drawn from there
LINES = 200  # lines of log shown
QUESTIONS = ("get_window_data", "set_window_data", "get_env_list", "win_exists", "win_hash", "check_connection")


class Unreachable(Exception):
    """No visdom server answers. Not a ConnectionError: visdom catches those and prints."""


def read_events(record, end=None):
    """Yield the events (dicts) in the first `end` bytes of a record. No file: none. Half-written lines are left out."""
    try:
        file = open(record, "rb")
    except OSError:
        return
    with file:
        for line in file:
            if end is not None and file.tell() > end:
                return
            try:
                event = json.loads(line)
            except ValueError:  # a run killed while writing leaves half a line
                continue
            if isinstance(event, dict):
                yield event


def replay(record, env=None, port=8097, server="http://localhost"):
    """Draw a whole record, replacing its windows. Returns the env (None: the record's). Raises Unreachable, OSError."""
    envs = [event["env"] for event in read_events(record) if event.get("kind") == "env"]
    screen = _Screen(env or (envs or ["default"])[-1], {"port": port, "server": server}, record)
    screen.connect()
    for _ in range(3):  # a live run may add points while older ones are on their way: draw again with them
        size = os.path.getsize(record)
        screen.replay(size)
        if os.path.getsize(record) == size:
            break
    return screen.env


def _connect(env, options):
    """A visdom client that gives up after TIMEOUT and raises Unreachable where visdom would print."""
    import requests
    import visdom

    logging.getLogger("visdom").setLevel(logging.CRITICAL)  # it logs each new session

    class Client(visdom.Visdom):
        def _handle_post(self, url, data=None):
            try:
                self.session.trust_env = False  # a proxy set for the internet must not get between us and the server
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


def _number(value):
    """A number, 0-d tensor or array as a Python number; None for nan and inf, which JSON does not know."""
    value = value.item() if hasattr(value, "item") else value
    value = value if type(value) is int else float(value)
    return value if math.isfinite(value) else None


def _picture(tensor, nrow=8, padding=2):
    """HxW, CxHxW or NxCxHxW (drawn as a grid), uint8 0..255 or float 0..1 -> uint8 array 3xH'xW'."""
    import torch
    from torchvision.utils import make_grid

    pixels = torch.as_tensor(tensor).detach().cpu()
    if pixels.is_floating_point() or pixels.dtype == torch.bool:
        pixels = pixels.float().nan_to_num().clamp(0, 1).mul(255).round()
    return make_grid(pixels.clamp(0, 255).to(torch.uint8), nrow, padding, pad_value=255).numpy()


def _key(event):
    return event["kind"], event.get("name", event.get("win", id(event)))


def _gather(events):
    """{(kind, name): what to draw}: of a plot {x: last y}, of a log its last lines, else the newest event."""
    groups = {}
    for event in events:
        try:
            if event["kind"] == "plot":
                x, y = float(event["x"]), event["y"]
                groups.setdefault(_key(event), {})[x] = y
            elif event["kind"] == "log":
                stamp = time.strftime("%m%d_%H%M%S", time.localtime(event["time"]))
                groups.setdefault(_key(event), deque(maxlen=LINES)).append(f"[{stamp}] {event['text']} <br>")
            elif event["kind"] in ("image", "call"):
                groups[_key(event)] = event
        except (KeyError, TypeError, ValueError):  # the file is open to other hands
            continue
    return groups


class _Screen:
    """One env on the server and what its windows show; connect, replay and draw raise Unreachable."""

    def __init__(self, env, options, record=None):
        self.env, self.options, self.record, self.client = env, options, record, None
        self.plot_options = {}  # name -> keywords given to plot
        self.last_x = {}  # name -> last x drawn
        self.lines = {}  # win -> lines of log drawn
        self.warned = set()

    def warn(self, topic, text):
        if topic not in self.warned:
            self.warned.add(topic)
            print("visdom: " + " ".join(text.split())[:500], file=sys.stderr, flush=True)

    def connect(self):
        try:
            self.client = self.client or _connect(self.env, self.options)
        except Exception as error:  # also a strange answer, a wrong keyword, no visdom installed
            raise Unreachable(str(error)) from error

    def replay(self, end):
        """Draw the first `end` bytes of the record, in place of what was shown."""
        self.last_x.clear()
        self.lines.clear()
        for key, what in _gather(read_events(self.record, end)).items():
            self.draw(key, what)

    def draw(self, key, what):
        """Draw one group of _gather. Returns False when only a replay can make the window right."""
        try:
            return getattr(self, "_draw_" + key[0])(key[1], what)
        except Unreachable:
            raise
        except Exception as error:  # visdom asserts shapes, the server may refuse: neither may stop the thread
            topic = key[0] if key[0] == "call" else f"{key[0]} {key[1]}"
            self.warn(topic, f"cannot draw {topic}: {error!r}")

    def _draw_plot(self, name, points):
        import numpy as np

        xs, ys = zip(*sorted(points.items()), strict=True)
        known = name in self.last_x
        if self.record and known and (xs[0] <= self.last_x[name] or not self.client.win_exists(name, self.env)):
            return False  # a resumed run draws over its own points, or the server was restarted and is empty
        options = self.plot_options.get(name, {})
        options = {**options, "opts": {"title": name, **options.get("opts", {})}}
        y = np.array([math.nan if y is None else y for y in ys], dtype=float)
        self.client.line(Y=y, X=np.array(xs), win=name, update="append" if known else None, **options)
        self.last_x[name] = xs[-1]

    def _draw_log(self, win, lines):
        shown = deque([*self.lines.get(win, ()), *lines], LINES)
        self.client.text("".join(shown), win=win)
        self.lines[win] = shown

    def _draw_image(self, name, event):
        import numpy as np
        from PIL import Image

        pixels, options = event.get("pixels"), event.get("options", {})
        if pixels is None:
            pixels = np.array(Image.open(os.path.join(os.path.dirname(self.record), event["file"]))).transpose(2, 0, 1)
        self.client.image(pixels, win=name, **{**options, "opts": {"title": name, **options.get("opts", {})}})

    def _draw_call(self, _, event):
        self.client._send(*event["message"])


def _harmless(method):
    """Nothing drawn may end a run: errors are told once, and in a worker, which holds a mere copy, nothing is done."""

    @functools.wraps(method)
    def wrapped(self, *args, **kwargs):
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
    `vis.histogram(torch.randn(1000))`) is passed through and returns its window.

    record: path of the run's events.jsonl, or None (notebook); kwargs go to visdom.Visdom.
    """

    def __init__(self, env="default", port=8097, record=None, server="http://localhost", **kwargs):
        self._pid = os.getpid()
        self.record = record and os.path.abspath(record)
        self._options = {"port": port, "server": server, **kwargs}
        self._queue, self._wake = deque(maxlen=QUEUE), threading.Condition()
        self._thread, self._closing, self._stale = None, False, False
        # name -> x of its next point; a resumed run adds to the curves of its record
        groups = _gather(read_events(self.record)) if self.record else {}
        self.index = {name: math.floor(max(what)) + 1 for (kind, name), what in groups.items() if kind == "plot"}
        self.reinit(env)

    def reinit(self, env="default", **kwargs):
        """Change the env (or port, server, ...); a run with a record moves there whole. Returns self."""
        if not self._foreign():
            with self._wake:
                self._options.update(kwargs)
                self.env = str(env).replace("/", "_")  # as the server does
                self._screen, self._drawer = _Screen(self.env, self._options, self.record), None
                self._stale = bool(self.record)
                if self.record:
                    self._write({"time": time.time(), "kind": "env", "env": self.env})
        return self

    @property
    def vis(self):
        """The visdom client, or None while no server is reached."""
        return None if self._foreign() else self._screen.client

    @_harmless
    def plot(self, name, y, x=None, **kwargs):
        """plot('loss', 1.00): one more point. y, x: numbers or 0-d tensors; without x, points are counted."""
        y, x = _number(y), None if x is None else _number(x)
        with self._wake:
            count = self.index.get(name, 0)
            x = count if x is None else x
            self.index[name] = max(count, math.floor(x) + 1)
            self._screen.plot_options[name] = kwargs
            self._put({"time": time.time(), "kind": "plot", "name": name, "x": x, "y": y})

    def plot_many(self, d, x=None):
        """plot_many({'loss': 0.11, 'lr': 0.01})"""
        for name, y in d.items():
            self.plot(name, y, x)

    @_harmless
    def img(self, name, img_, nrow=8, padding=2, **kwargs):
        """img('input', tensor): HxW, CxHxW or NxCxHxW (a grid, nrow wide), uint8 0..255 or float 0..1."""
        event = {"time": time.time(), "kind": "image", "name": name}
        pixels = _picture(img_, kwargs.pop("nrows", nrow), padding)  # the book writes nrows
        file = self.record and self._save(name, pixels)
        if file:
            self._put({**event, "file": file}, options=kwargs)
        else:
            self._put(event, pixels=pixels, options=kwargs)

    def img_many(self, d):
        """img_many({'input': tensor, 'output': tensor})"""
        for name, img_ in d.items():
            self.img(name, img_)

    @_harmless
    def log(self, info, win="log_text"):
        """log({'loss': 1, 'lr': 0.0001}): one more line of HTML, '[mmdd_HHMMSS] info'; the last LINES are shown."""
        self._put({"time": time.time(), "kind": "log", "win": win, "text": str(info)})

    @_harmless
    def close(self, timeout=3.0):
        """Send what waits, for at most `timeout` seconds. Later calls are recorded, not drawn."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        atexit.unregister(self.close)
        if self._thread:
            self._thread.join(timeout)

    def __getattr__(self, name):
        # Reached only for what is not ours. The class of visdom is asked, not a client: that needs no server, and
        # cannot recurse in an object without attributes (copied, unpickled, __init__ failed).
        if not name.startswith("_"):
            import visdom

            if callable(getattr(visdom.Visdom, name, None)):
                return getattr(self.vis, name) if name in QUESTIONS else functools.partial(self._call, name)
        raise AttributeError(f"neither Visualizer nor visdom has {name!r}")

    def __getstate__(self):
        return {}  # a copy sent to a worker does nothing

    def _foreign(self):
        return self.__dict__.get("_pid") != os.getpid()

    @_harmless
    def _call(self, name, *args, **kwargs):
        """Have visdom make its message now, as the data may change; the thread sends it."""
        import visdom

        if self._drawer is None:
            self._drawer, seen = visdom.Visdom(env=self.env, send=False, use_incoming_socket=False), set()
            # visdom asks whether to add to a window or to make it: the first call for a window makes it
            self._drawer.win_exists = lambda win, env=None: win in seen or bool(seen.add(win))
        method = getattr(visdom.Visdom, name)
        call = inspect.signature(method).bind(self._drawer, *args, **kwargs)
        if "win" in inspect.signature(method).parameters and call.arguments.get("win") is None:
            call.arguments["win"] = f"window_{uuid.uuid4().hex}"
        self._put({"kind": "call"}, message=method(*call.args, **call.kwargs))
        return call.arguments.get("win")

    def _write(self, event):
        """Append an event to the record. Returns False when the disk does not take it."""
        try:
            os.makedirs(os.path.dirname(self.record), exist_ok=True)
            with open(self.record, "ab+", buffering=0) as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                start = b"" if file.read(1) in (b"", b"\n") else b"\n"  # behind half a line, start a new one
                line = start + json.dumps(event, allow_nan=False).encode() + b"\n"
                if file.write(line) != len(line):
                    raise OSError("disk full")
            return True
        except OSError as error:
            self._screen.warn("record", f"cannot write {self.record} ({error}); the run goes on")
            return False

    def _save(self, name, pixels):
        """Write a picture beside the record. Returns its path from there, None when the disk does not take it."""
        from PIL import Image

        folder, file = os.path.dirname(self.record), re.sub(r"[^\w.-]", "_", name)[:80] + f"_{time.time_ns()}.png"
        try:
            os.makedirs(os.path.join(folder, "images"), exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(os.path.join(folder, "images", file))
            return f"images/{file}"
        except OSError as error:
            self._screen.warn("record", f"cannot write {file} in {folder} ({error}); the run goes on")

    def _put(self, event, **extra):
        """Record an event, then queue it; calls and unsaved pictures cannot be recorded."""
        with self._wake:
            recorded = bool(self.record) and not {"message", "pixels"} & extra.keys() and self._write(event)
            if self.record and len(self._queue) == QUEUE:
                self._stale = True
                self._queue = deque((e for e in self._queue if not e["recorded"]), QUEUE)
            if not (recorded and self._stale):  # the replay that is due draws what is recorded
                self._queue.append({**event, **extra, "recorded": recorded})
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._run, name="visualizer", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            self._wake.notify()

    def _run(self):
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

    def _flush(self, screen):
        """Draw all that waits. Returns False when no server is reached; then it goes on waiting."""
        batch, groups = [], {}
        try:
            screen.connect()
            with self._wake:
                if screen is not self._screen:  # reinit came in between
                    return True
                due, self._stale = self._stale, False
                end = os.path.getsize(self.record) if due and os.path.exists(self.record) else 0
                batch = [event for event in self._queue if not (due and event["recorded"])]
                self._queue.clear()
            groups = _gather(batch)
            if due:
                screen.replay(end)
            for key in list(groups):
                if screen.draw(key, groups[key]) is False:
                    self._stale = True
                del groups[key]
        except Unreachable as error:
            screen.client, url = None, "{server}:{port}".format(**screen.options)
            kept = f", recorded in {self.record}" if self.record else ""
            screen.warn("server", f"no server at {url} ({error}); the run goes on{kept}. To see it: make visdom")
            with self._wake:
                self._stale = bool(self.record)
                undone = [event for event in batch if not event["recorded"] and _key(event) in groups]
                self._queue = deque([*undone, *self._queue], QUEUE)
            return False
        except Exception as error:
            screen.warn("draw", f"cannot draw: {error!r}")
        return True
