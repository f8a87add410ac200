"""The Visualizer against a real visdom server, and against servers that refuse, stay silent, die or are slow."""

import base64
import io
import json
import math
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import requests
import torch
import visdom
from PIL import Image
from visdom_helper import (
    HANGS,
    ROOT,
    Server,
    browse,
    browser,
    environment,
    free_port,
    silent_server,
    slow_server,
    wait_for,
)

from utils.visdom import Visualizer, screen, visualizer
from utils.visdom import server as visdom_server
from utils.visdom.screen import Screen, read_events


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(visualizer, "RETRY", 0.2)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def own_server(tmp_path):
    """A server to kill; the others are one, as starting it takes seconds."""
    server = Server(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def record(tmp_path):
    return tmp_path / "run" / "events.jsonl"


@pytest.fixture
def env(request):
    return re.sub(r"\W", "-", request.node.name)


def run(code, *args):
    """Run a program that uses the Visualizer; returns (lines on stderr, exit status)."""
    code = "import sys, os\nfrom utils.visdom import Visualizer, screen, visualizer\n" + code
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=HANGS)
    return done.stderr.splitlines(), done.returncode


def picture(window):
    data = base64.b64decode(window["content"]["src"].split(",")[1])
    return np.array(Image.open(io.BytesIO(data)))


def test_windows_and_record(server, env, record):
    vis = Visualizer(env, server.port, record)
    for i in range(3):
        vis.plot("loss", 1.0 / (i + 1))
    vis.plot_many({"val_accuracy": torch.tensor(61.5), "lr": np.float64(0.1)}, x=7)
    vis.log({"lr": 0.1})
    vis.log("second")
    vis.close(HANGS)
    windows = server.windows(env)
    assert server.points(env, "loss") == [(0, 1), (1, 0.5), (2, 1 / 3)]
    assert server.points(env, "val_accuracy") == [(7, 61.5)] and server.points(env, "lr") == [(7, 0.1)]
    assert windows["loss"]["title"] == "loss"
    stamp = r"\[\d{4}_\d{6}\] "
    lines = stamp + r"\{'lr': 0.1\} <br>" + stamp + "second <br>"
    assert re.fullmatch(f"<div [^>]*monospace[^>]*>{lines}</div>", windows["log_text"]["content"])
    assert windows["log_text"]["width"] > 700  # pixels
    events = list(read_events(record))
    assert [e["kind"] for e in events] == ["env", "plot", "plot", "plot", "plot", "plot", "log", "log"]
    assert (events[0]["env"], events[0]["port"]) == (env, server.port) and all(e["time"] > 1e9 for e in events)
    assert {k: events[4][k] for k in ("name", "x", "y")} == {"name": "val_accuracy", "x": 7, "y": 61.5}
    assert {k: events[6][k] for k in ("win", "text")} == {"win": "log_text", "text": "{'lr': 0.1}"}


def test_without_record(server, env):
    vis = Visualizer(env, server.port)
    for i in range(5):
        vis.plot("loss", i)
        wait_for(lambda i=i: len(server.points(env, "loss")) == i + 1)  # point by point: each is appended
    vis.img("dots", torch.eye(8))
    vis.close(HANGS)
    assert server.points(env, "loss") == [(i, i) for i in range(5)]
    assert picture(server.windows(env)["dots"]).shape == (8, 8, 3)


def test_the_environment_is_named_like_the_folder_of_the_run(record):
    assert Visualizer(None, record=record).env == record.parent.name == "run"
    assert Visualizer().env == Visualizer(None).env == "default" and Visualizer("mine", record=record).env == "mine"


@pytest.mark.parametrize("kept", [True, False])
def test_few_points_are_marked_and_a_constant_has_an_axis_from_zero(server, env, record, kept):
    """Each while it is so, though the points come one by one, with a record and without."""

    def style(name):
        window = server.windows(env)[name]["content"]
        axis = window["layout"]["template"]["layout"]["yaxis"]["rangemode"]
        return window["data"][0]["mode"], axis

    env = f"{env}-{kept}"
    vis = Visualizer(env, server.port, record if kept else None)
    vis.plot("nan", math.nan)
    vis.plot("rate", 0.001, opts={"ylabel": "steps"})
    wait_for(lambda: server.points(env, "rate"))
    assert style("rate") == ("lines+markers", "tozero") and style("nan") == ("lines+markers", "normal")
    vis.plot("rate", 0.001, opts={"ylabel": "steps"})
    wait_for(lambda: len(server.points(env, "rate")) == 2)
    assert style("rate") == ("lines+markers", "tozero")
    assert server.windows(env)["rate"]["content"]["layout"]["yaxis"]["title"] == "steps"
    for i in range(2, screen.FEW):
        vis.plot("rate", i)
    wait_for(lambda: len(server.points(env, "rate")) == screen.FEW)
    assert style("rate") == ("lines+markers", "normal")
    vis.plot("rate", 1)
    vis.close(HANGS)
    assert style("rate") == ("lines", "normal")
    assert server.points(env, "rate") == [
        *zip(range(screen.FEW + 1), [0.001, 0.001, *range(2, screen.FEW), 1], strict=True)
    ]


def test_nan_and_what_is_no_number(server, env, record, capsys):
    vis = Visualizer(env, server.port, record)
    for y in (1.0, math.nan, torch.tensor(math.inf), np.float32(-math.inf), torch.tensor([2.0])):
        vis.plot("loss", y)
    vis.plot("loss", 3, x=math.nan)  # no place to draw at: counted
    for y in ("three", None, torch.zeros(3)):
        vis.plot("bad", y)
    vis.close(HANGS)
    assert server.points(env, "loss") == [(0, 1), (1, None), (2, None), (3, None), (4, 2), (5, 3)]
    for line in open(record):
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "shape, drawn",
    [((6, 9), (6, 9, 3)), ((1, 6, 9), (6, 9, 3)), ((3, 6, 9), (6, 9, 3)), ((4, 1, 6, 9), (18, 24, 3))],
)
def test_pictures(server, env, record, shape, drawn):
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    vis = Visualizer(env, server.port, record)
    vis.img("bytes/all", pixels, nrows=2)
    vis.img_many({"floats": pixels.float() / 255, "wild": pixels.float() * math.nan + 2})
    vis.close(HANGS)
    windows = server.windows(env)
    bytes_, floats = picture(windows["bytes/all"]), picture(windows["floats"])
    assert bytes_.shape == drawn
    if len(shape) < 4:
        assert (bytes_ == floats).all()
        assert (bytes_[:, :, 0] == pixels.numpy().reshape(-1, 6, 9)[0]).all()
    else:
        assert (bytes_[2:8, 2:11, 0] == pixels[0, 0].numpy()).all()
    (event, *_) = [event for event in read_events(record) if event["kind"] == "image"]
    assert (np.array(Image.open(record.parent / event["file"])) == bytes_).all()
    assert event["file"].startswith("images/") and event["name"] == "bytes/all"


def test_pictures_of_a_name_are_numbered_and_a_resumed_run_continues_the_numbers(record):
    for shade, count in ((10, 2), (20, 1)):
        vis = Visualizer(None, 1, record)  # no server is there
        for number in range(count):
            vis.img("val_0000_0", torch.full((3, 4, 4), shade + number, dtype=torch.uint8))
            vis.img("val_0000", torch.zeros(3, 4, 4, dtype=torch.uint8))
        vis.close(0)
    events = [event for event in read_events(record) if event.get("name") == "val_0000_0"]
    assert [event["file"] for event in events] == [
        f"images/val_0000_0_{number}.png" for number in ("001", "002", "003")
    ]
    shades = [np.array(Image.open(record.parent / event["file"]))[0, 0, 0] for event in events]
    assert shades == [10, 11, 20] and len(list(record.parent.glob("images/*.png"))) == 6


def test_log_shows_the_last_lines(server, env, record):
    vis = Visualizer(env, server.port, record)
    for i in range(screen.LINES + 50):
        vis.log(f"line {i}.")
    wait_for(lambda: "line 249." in server.windows(env)["log_text"]["content"])
    vis.log("the end")
    vis.close(HANGS)
    text = server.windows(env)["log_text"]["content"]
    assert text.count("<br>") == screen.LINES and "the end" in text and "line 50." not in text and "line 51." in text
    assert sum(event["kind"] == "log" for event in read_events(record)) == screen.LINES + 51


def test_other_calls_pass_through(server, env):
    vis = Visualizer(env, server.port)
    values = torch.arange(100.0)
    assert vis.text("hello visdom", win="greeting") == "greeting"
    histogram, bars = vis.histogram(values), vis.bar(torch.arange(3), opts={"title": "bars"})
    values.fill_(5)  # what was drawn stays as it was at the call
    for i in range(3):
        vis.line(torch.tensor([float(i)]), torch.tensor([i]), win="mine", update="append", opts={"title": "my line"})
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.figure().gca().plot([1, 2])
    figure = vis.matplot(pyplot)
    pyplot.close("all")
    vis.close(HANGS)
    windows = server.windows(env)
    assert windows["greeting"]["content"] == "hello visdom" and windows[bars]["title"] == "bars"
    assert len(set(windows[histogram]["content"]["data"][0]["y"])) < 5 and "<svg" in windows[figure]["content"]
    assert server.points(env, "mine") == [(0, 0), (1, 1), (2, 2)]
    assert windows["mine"]["content"]["layout"]["title"] == "my line"
    assert json.loads(vis.get_window_data("mine"))["id"] == "mine"  # a question goes to the client itself
    assert isinstance(vis.vis, visdom.Visdom)


def test_names_that_do_not_exist():
    """B16: the book's passthrough recurses for ever where `vis` is not set."""
    for vis in (Visualizer(port=free_port()), Visualizer.__new__(Visualizer), pickle.loads(pickle.dumps(Visualizer()))):
        for name in ("nonsense", "_private", "__len__", "_pid_"):
            with pytest.raises(AttributeError):
                getattr(vis, name)
        assert callable(vis.histogram) and vis.vis is None


def test_mistakes_do_not_stop_the_thread(server, env, record, capsys):
    vis = Visualizer(env, server.port, record)
    with vis._wake:  # the thread gets all of it at once
        vis.plot("wrong", 1, nonsense=True)
        vis.img("wrong", torch.zeros(2, 2, 2, 2, 2))
        vis.histogram(torch.zeros(3, 3, 3))
        vis.text("title of no type", opts={"title": object()})
        vis.properties([object()])  # no JSON: seen only when it is sent
        os.makedirs(record.parent / "images")
        with open(record, "a") as file:
            file.write('{"kind": "plot", "name": "lame"}\n[1]\n{"kind": "plot", "name": "x", "x": null, "y": 1}\n')
            file.write('{"kind": "image", "name": "gone", "file": "images/gone.png"}\n{"a": 1}\n\x00\x00\n')
        vis.plot("right", 1)
        vis.text("right", win="text")
    wait_for(lambda: server.points(env, "right") == [(0, 1)])
    vis.plot("right", 2)
    vis.close(HANGS)
    assert server.points(env, "right") == [(0, 1), (1, 2)] and "text" in server.windows(env)
    err = capsys.readouterr().err
    assert "Traceback" not in err and len(err.splitlines()) == 6, err


def test_refused(tmp_path):
    """One line on stderr, whatever comes, and the whole run in the record."""
    code = """
visualizer.RETRY = 0.05
vis = Visualizer(port=int(sys.argv[1]), record=sys.argv[2])
for i in range(300):
    vis.plot("loss", i)
    vis.text("hello")
    visualizer.time.sleep(0.002)
vis.close()
vis.plot("loss", 300)
"""
    port = free_port()
    for record in (tmp_path / "events.jsonl", ""):
        err, status = run(code, port, record)
        assert status == 0 and len(err) == 1, err
        assert f"http://localhost:{port}" in err[0] and "make visdom" in err[0]
    assert [e["y"] for e in read_events(tmp_path / "events.jsonl") if e["kind"] == "plot"] == list(range(301))


def test_silent_server(tmp_path):
    """Calls return, and the program ends, while the server has not said a word; without close too."""
    code = """
vis = Visualizer(port=int(sys.argv[1]), record=sys.argv[2])
for i in range(2000):
    vis.plot("loss", i)
    vis.text("hello")
assert vis.vis is None
vis.close(0.5)
"""
    with silent_server() as (port, connections):
        err, status = run(code, port, tmp_path / "events.jsonl")
        assert status == 0 and err == [] and len(connections) == 1
        err, status = run("screen.TIMEOUT = 0.2\n" + code.replace("vis.close", "#"), port, tmp_path / "more.jsonl")
        assert status == 0 and len(err) == 1 and "Timeout" in err[0], err
    assert sum(event["kind"] == "plot" for event in read_events(tmp_path / "more.jsonl")) == 2000


def test_idle_makes_no_noise():
    with silent_server() as (port, connections):
        vis = Visualizer(port=port)
        assert vis.vis is None and callable(vis.text)
        vis.close()
        assert connections == []


@pytest.mark.slow
def test_killed_and_late_server(own_server, tmp_path, capfd):
    """A server dies and comes back empty, while a run with a record and a notebook without one draw on."""
    server = own_server
    vis = Visualizer("kept", server.port, tmp_path / "events.jsonl")
    for i in range(10):
        vis.plot("loss", i)
    notebook = Visualizer("notebook", server.port)
    notebook.text("first", win="first")
    wait_for(lambda: len(server.points("kept", "loss")) == 10 and server.windows("notebook")["first"])
    server.kill()
    for i in range(visualizer.QUEUE + 100):  # no record: the newest calls wait
        notebook.plot("loss", i)
    for i in range(10, 20):
        vis.plot("loss", i)
    vis.log("while it was away")
    server.start()
    wait_for(lambda: server.points("kept", "loss") == [(i, i) for i in range(20)])
    wait_for(lambda: server.points("notebook", "loss") == [(i, i) for i in range(100, visualizer.QUEUE + 100)])
    wait_for(lambda: "away" in server.windows("kept")["log_text"]["content"])
    # it dies and comes back between two points: no call has failed, the next one finds its window gone
    server.kill()
    server.start()
    vis.plot("loss", 20)
    wait_for(lambda: server.points("kept", "loss") == [(i, i) for i in range(21)])
    vis.close(HANGS)
    notebook.close(HANGS)
    out, err = capfd.readouterr()
    assert out == "" and [line[:33] for line in err.splitlines()] == ["warning: visdom: no server at htt"] * 2, (
        out + err
    )


def test_slow_server_and_full_queue(server, env, record, monkeypatch):
    monkeypatch.setattr(visualizer, "QUEUE", 20)
    with slow_server(server.port, 0.05) as port:
        vis = Visualizer(env, port, record)
        vis.plot("loss", 0)
        wait_for(lambda: server.points(env, "loss"))
        for i in range(1, 500):
            vis.plot("loss", i)
            if i == 250:
                wait_for(lambda: len(server.points(env, "loss")) > 200)
        assert len(vis._queue) <= 20
        vis.close(HANGS)
    assert server.points(env, "loss") == [(i, i) for i in range(500)]


def test_slow_server_without_record(server, env):
    with slow_server(server.port, 0.05) as port:
        vis = Visualizer(env, port)
        for i in range(500):
            vis.plot("loss", i)
        vis.close(HANGS)
    assert server.points(env, "loss") == [(i, i) for i in range(500)]


def test_resumed_run(server, env, record):
    vis = Visualizer(env, server.port, record)
    for x in range(0, 100, 10):
        vis.plot("loss", 1, x=x)
        vis.plot("counted", 1)
    vis.close(HANGS)
    vis = Visualizer(env, server.port, record)
    for x in range(60, 130, 10):  # from the last checkpoint on: some points for the second time
        vis.plot("loss", 2, x=x)
        wait_for(lambda x=x: (x, 2) in server.points(env, "loss"))
    vis.plot("counted", 2)
    vis.close(HANGS)
    assert server.points(env, "loss") == [(x, 1 if x < 60 else 2) for x in range(0, 130, 10)]
    assert server.points(env, "counted") == [(i, 1) for i in range(10)] + [(10, 2)]
    assert sum(event["kind"] == "plot" for event in read_events(record)) == 28


def test_half_written_line(record):
    vis = Visualizer(port=free_port(), record=record)
    vis.plot("loss", 0)
    with open(record, "ab") as file:
        file.write(b'{"time": 1, "kind": "plot", "name": "l\xc3')  # kill -9 here
    assert len(list(read_events(record))) == 2
    vis.close()
    vis = Visualizer(port=free_port(), record=record)
    vis.plot("loss", 1)
    vis.close()
    assert [event["y"] for event in read_events(record) if event["kind"] == "plot"] == [0, 1]
    assert list(read_events(record.parent / "none.jsonl")) == []


def test_disk_full(server, env, record):
    """The limit cuts a line in the middle; once there is room again, all is recorded."""
    code = """
import resource
vis = Visualizer(sys.argv[1], int(sys.argv[2]), sys.argv[3])
vis.plot("loss", 0)
while vis._waits():  # until the server shows the record
    visualizer.time.sleep(0.01)
size = os.path.getsize(sys.argv[3])
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
vis.plot("loss", 1)
vis.plot("loss", 2)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
vis.plot("loss", 3)
vis.log("continues")
vis.close(300)
"""
    err, status = run(code, env, server.port, record)
    assert status == 0 and len(err) == 1 and str(record) in err[0], err
    assert server.points(env, "loss") == [(i, i) for i in range(4)]
    assert [event["y"] for event in read_events(record) if event["kind"] == "plot"] == [0, 1, 2, 3]
    assert [json.loads(line)["kind"] for line in record.read_text().splitlines()][-2:] == ["plot", "log"]


def test_pictures_on_a_full_disk(server, env, record, capsys):
    vis = Visualizer(env, server.port, record)
    record.parent.mkdir()
    (record.parent / "images").write_text("a file where the folder should be")
    vis.img("dots", torch.eye(8))
    vis.close(HANGS)
    assert picture(server.windows(env)["dots"]).shape == (8, 8, 3)
    assert len(capsys.readouterr().err.splitlines()) == 1 and len(list(read_events(record))) == 1


class Watched(torch.utils.data.Dataset):
    def __init__(self, vis):
        self.vis = vis

    def __len__(self):
        return 4

    def __getitem__(self, i):
        self.vis.plot("in a worker", i)
        self.vis.img("in a worker", torch.eye(8))
        self.vis.log("in a worker")
        self.vis.reinit("elsewhere").close()
        assert self.vis.text("in a worker") is None and self.vis.vis is None
        return i


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_draw_nothing(server, env, record, start):
    vis = Visualizer(env, server.port, record)
    vis.plot("loss", 1)
    wait_for(lambda: server.points(env, "loss"))
    loader = torch.utils.data.DataLoader(Watched(vis), num_workers=1, multiprocessing_context=start)
    assert [int(i) for i in loader] == [0, 1, 2, 3]
    vis.plot("loss", 2)
    vis.close(HANGS)
    assert server.points(env, "loss") == [(0, 1), (1, 2)] and set(server.windows(env)) == {"loss"}
    assert [event["kind"] for event in read_events(record)] == ["env", "plot", "plot"]


def test_reinit(server, env, record, monkeypatch):
    """Also: when close comes in the middle of a vain attempt, one more is made."""
    monkeypatch.setattr(screen, "TIMEOUT", 1)
    with silent_server() as (port, connections):
        vis = Visualizer(env, port, record)
        vis.plot("loss", 0)
        wait_for(lambda: connections)
        assert vis.reinit(f"{env}/moved", port=server.port) is vis
        vis.plot("loss", 1)
        vis.close(HANGS)
    assert server.points(f"{env}_moved", "loss") == [(0, 0), (1, 1)]


def test_import_is_cheap():
    err, status = run("assert not {'torch', 'visdom', 'numpy', 'requests'} & sys.modules.keys()")
    assert status == 0, err


def test_server_listens_on_loopback_only(server):
    rows = [line.split() for line in open("/proc/net/tcp").readlines()[1:] + open("/proc/net/tcp6").readlines()[1:]]
    local = [row[1].split(":") for row in rows if row[3] == "0A"]
    assert [address for address, port in local if int(port, 16) == server.port] == ["0100007F"]


def test_server_port_is_taken(capsys):
    with silent_server() as (port, _), pytest.MonkeyPatch.context() as patch:
        timeout = requests.Session.post
        patch.setattr(requests.Session, "post", lambda *args, **kw: timeout(*args, **{**kw, "timeout": 0.2}))
        assert visdom_server.main([f"--port={port}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(port) in line
    for target in (free_port(), None):  # they answer, but are no visdom
        with slow_server(target, 0) as port:
            assert visdom_server.main([f"--port={port}"]) == 2
            with pytest.raises(screen.Unreachable):
                Screen("default", {"port": port, "server": "http://localhost"}).connect()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_server_ends_quietly(own_server, how):
    assert own_server.stop(how) == 0
    (line,) = [line for line in own_server.log.read_text().splitlines() if "npm" not in line]
    assert f"http://localhost:{own_server.port}/env/default shows the newest run in " in line
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", own_server.port))


def test_assets_without_npm(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    visdom_server.lay_assets(tmp_path)
    assert "npm" in capsys.readouterr().out and list(tmp_path.rglob("*.js")) == []
    for files in visdom_server.ASSETS.values():
        for target in files.values():
            (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / target).touch()
    visdom_server.lay_assets(tmp_path)  # nothing is missing: npm is not asked
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not browser() or not shutil.which("npm"), reason="needs chromium and npm")
def test_page(server, env, record, tmp_path):
    """A person sees the curves and the log: the page itself, without internet."""
    vis = Visualizer(env, server.port, record)
    for i in range(50):
        vis.plot("loss", math.exp(-i / 10) + 0.05 * math.sin(i))
    for accuracy in (60, 72, 68, 80, 91):
        vis.plot("val_accuracy", accuracy)
    vis.log("epoch 4, lr 0.001")
    vis.close(HANGS)
    url = f"http://127.0.0.1:{server.port}/env/{env}"
    dom = browse(url, tmp_path, "--dump-dom")
    curves = re.findall(r'<path class="js-line"[^>]* d="([^"]+)"', dom)
    assert len(curves) == 2 and curves[0].count(",") > 20 and curves[1].count(",") == 5
    titles = re.findall(r'class="gtitle"[^>]*>([^<]+)<', dom)
    assert titles == ["loss", "val_accuracy"] and "epoch 4, lr 0.001" in dom
    shot = tmp_path / "page.png"
    browse(url, tmp_path, f"--screenshot={shot}")
    blue = (np.array(Image.open(shot).convert("RGB")).astype(int) - [31, 119, 180]).__abs__().sum(2) < 30
    assert blue.sum() > 300  # the curves, in plotly's first colour
    if os.environ.get("KEEP_SCREENSHOT"):
        shutil.copy(shot, os.environ["KEEP_SCREENSHOT"])
