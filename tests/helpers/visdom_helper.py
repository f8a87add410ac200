"""Servers for the tests of the Visualizer: the real one, and some that behave badly. All listen on loopback only."""

import contextlib
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import requests
import websocket

ROOT = Path(__file__).resolve().parent.parent.parent
HANGS = 300  # seconds: only what hangs takes so long


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_for(condition, seconds=HANGS):
    """Wait until condition() is true, and return what it gave; a KeyError or the like in it means 'not yet'."""
    end = time.monotonic() + seconds
    while True:
        try:
            result = condition()
            if result:
                return result
            error = AssertionError(f"never came true; last: {result!r}")
        except (AssertionError, KeyError, ValueError, requests.RequestException) as exception:
            error = exception
        if time.monotonic() > end:
            raise error
        time.sleep(0.05)


class Server:
    """`python -m utils.visdom.server` as a process."""

    def __init__(self, folder, port=None, checkpoints=None):
        self.folder, self.port = Path(folder), port or free_port()
        self.checkpoints = checkpoints or self.folder / "no_checkpoints"
        self.start()

    def start(self):
        command = [sys.executable, "-m", "utils.visdom.server", f"--port={self.port}"]
        command += [f"--checkpoints={self.checkpoints}", f"--env_path={self.folder / 'envs'}"]
        self.log = self.folder / "server.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=log, stderr=log)
        wait_for(lambda: "shows" in self.log.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        wait_for(lambda: self._ask("main") is not None)  # while it starts, it answers with nothing

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(HANGS)

    def windows(self, env):
        """{window: its data} of an env; strict: NaN or Infinity in it, which no browser reads, is an error."""
        return wait_for(lambda: [self._ask(env)])[0]

    def _ask(self, env):
        reply = requests.post(f"http://127.0.0.1:{self.port}/win_data", json={"win": None, "eid": env}, timeout=HANGS)
        if not reply.text:
            raise ValueError("the answer is empty")
        return json.loads(reply.text, parse_constant=lambda name: 1 / 0)

    def points(self, env, name):
        """[(x, y), ...] of a line plot."""
        (line,) = self.windows(env)[name]["content"]["data"]
        return list(zip(line["x"], line["y"], strict=True))


@contextlib.contextmanager
def silent_server():
    """Accepts connections, never answers. Yields (port, list of connections)."""
    connections = []
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(50)

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connections.append(sock.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield sock.getsockname()[1], connections
        sock.shutdown(socket.SHUT_RDWR)
        for connection in connections:
            connection.close()


@contextlib.contextmanager
def slow_server(target, delay):
    """Hands each call on to the server on port `target` (None: answers {}) after `delay` seconds. Yields its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            time.sleep(delay)
            reply = b"{}"
            with contextlib.suppress(OSError):  # target dead: hang up
                if target:
                    reply = requests.post(f"http://127.0.0.1:{target}{self.path}", data=body, timeout=HANGS).content
                self.send_response(200)
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def browser():
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextlib.contextmanager
def devtools(url, folder):
    """What evaluates JavaScript in the page of `url`, which headless Chromium shows, with nothing but loopback."""
    command = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-allow-origins=*"]
    command += ["--remote-debugging-port=0", f"--user-data-dir={folder}/profile", "--no-first-run"]
    process = subprocess.Popen(
        [*command, "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", url], stdout=-3, stderr=-3
    )
    try:
        ready = folder / "profile" / "DevToolsActivePort"
        port = wait_for(lambda: ready.exists() and ready.read_text().split()[:1])[0]
        listed = f"http://127.0.0.1:{port}/json"
        pages = wait_for(lambda: [page for page in requests.get(listed).json() if url == page["url"]])
        with contextlib.closing(websocket.create_connection(pages[0]["webSocketDebuggerUrl"])) as connection:

            def evaluate(script):
                connection.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": {"expression": script}}))
                return json.loads(connection.recv())["result"]["result"].get("value")

            yield evaluate
    finally:
        process.terminate()
        process.wait()


def browse(url, folder, *options):
    """What headless Chromium prints for a page, with nothing but loopback reachable."""
    command = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    command += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={folder}/profile"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--window-size=1200,800"]
    command += ["--virtual-time-budget=8000", *options, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANGS).stdout
