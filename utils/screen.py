"""What a run's record looks like on a visdom server: reading the record, and drawing it there with timeouts."""

import json
import logging
import math
import os
import sys
import time
from collections import deque

from tqdm import tqdm

TIMEOUT = (2.0, 5.0)  # seconds to connect, to answer
LINES = 200  # lines of log shown


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
    screen = Screen(env or (envs or ["default"])[-1], {"port": port, "server": server}, record)
    screen.connect()
    for _ in range(3):  # a live run may add points while older ones are on their way: draw again with them
        size = os.path.getsize(record)
        screen.replay(size)
        if os.path.getsize(record) == size:
            break
    return screen.env


def connect(env, options):
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


def key_of(event):
    return event["kind"], event.get("name", event.get("win", id(event)))


def gather(events):
    """{(kind, name): what to draw}: of a plot {x: last y}, of a log its last lines, else the newest event."""
    groups = {}
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
        except (KeyError, TypeError, ValueError):  # the file is open to other hands
            continue
    return groups


class Screen:
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
            tqdm.write("visdom: " + " ".join(text.split())[:500], file=sys.stderr)  # above the bar, where there is one

    def connect(self):
        try:
            self.client = self.client or connect(self.env, self.options)
        except Exception as error:  # also a strange answer, a wrong keyword, no visdom installed
            raise Unreachable(str(error)) from error

    def replay(self, end):
        """Draw the first `end` bytes of the record, in place of what was shown."""
        self.last_x.clear()
        self.lines.clear()
        for key, what in gather(read_events(self.record, end)).items():
            self.draw(key, what)

    def draw(self, key, what):
        """Draw one group of gather. Returns False when only a replay can make the window right."""
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
