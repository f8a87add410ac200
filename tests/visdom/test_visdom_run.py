"""`python main.py train` beside real visdom servers: there from the start, started too late, killed, silent, absent."""

import csv
import os
import re
import shutil
import time

import numpy as np
import pytest
from conftest import FAST, NO_SERVER, main
from conftest import server as processes
from PIL import Image
from terminal import held
from visdom_helper import Server, browse, browser, free_port, silent_server, wait_for

from benchmarks.faults_signals import NO_REPORTS, alive
from utils.visdom.follow import NEWEST
from utils.visdom.screen import read_events

EPOCHS, STEPS, FREQ = 6, 7, 3  # 28 of the 40 pictures are for training: 7 steps of 4, a point every 3 of them
CURVES = {"loss", "lr", "train_accuracy", "val_accuracy", "val_loss"}
OPTIONS = [option for option in FAST if option != NO_SERVER]
# At so low a rate the loss falls till the end: two runs with the same numbers have then done the same in every step.
OPTIONS += [f"--max-epoch={EPOCHS}", f"--print-freq={FREQ}", "--lr=0.00003"]


class Training:
    """`python main.py train` as a process, in a folder of its own; every one of them has the same seed. It is held
    after `steps` steps, until `finish`; `first` is code that the process runs before."""

    def __init__(self, folder, pictures, port, steps=1, first=""):
        self.folder, self.port, self.errors = folder, port, None
        command = ["train", f"--train-data-root={pictures}", f"--vis-port={port}", *OPTIONS, *held(folder)]
        for step in range(2, steps):
            (folder / f"go_{step}").touch()
        self.files = [folder / "stdout", folder / "stderr"]
        code = f"{NO_REPORTS}\n{first}"
        self.pid = processes().start(*command, cwd=folder, files=self.files, first=code)

    def is_running(self):
        return alive(self.pid)

    def finish(self):
        """Wait for its end, which must be a regular one; `errors` is then what it wrote to stderr, as lines."""
        (self.folder / "go").touch()
        code = processes().wait()
        out, err = (file.read_text() for file in self.files)
        assert code == 0 and "finished: " in out, out + err
        self.errors = err.splitlines()

    @property
    def run(self):
        (run,) = (self.folder / "checkpoints").glob("*/")
        return run

    def events(self, kind):
        return [event for event in read_events(self.run / "events.jsonl") if event["kind"] == kind]

    def curves(self):
        """[(name, x, y), ...] of everything it plotted, in the order in which it did."""
        return [(event["name"], event["x"], event["y"]) for event in self.events("plot")]

    def curve(self, name):
        return [(x, y) for plotted, x, y in self.curves() if plotted == name]

    def log_text(self):
        """What the window of the log should hold."""
        stamps = [time.strftime("%m%d_%H%M%S", time.localtime(event["time"])) for event in self.events("log")]
        lines = [event["text"] for event in self.events("log")]
        return "".join(f"[{stamp}] {line} <br>" for stamp, line in zip(stamps, lines, strict=True))


def check_windows(server, training, *envs):
    """The server shows what the record has: the same windows, points and lines."""
    for env in envs or (training.run.name,):
        windows = server.windows(env)
        assert windows.keys() == CURVES | {"log_text"}
        for name in CURVES:
            assert server.points(env, name) == training.curve(name) and windows[name]["title"] == name
        assert f">{training.log_text()}</div>" in windows["log_text"]["content"]


def is_loss(event):
    return event["kind"] == "plot" and event["name"] == "loss"


def check_undisturbed(training, shown):
    """No server cost it one line of warning; its record is that of the run whose server was there all the time."""
    (line,) = training.errors
    assert line.startswith(f"warning: visdom: no server at http://localhost:{training.port} ") and "make visdom" in line
    assert training.curves() == shown.curves()
    assert [event["text"] for event in training.events("log")] == [event["text"] for event in shown.events("log")]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shown")
    server = Server(folder, checkpoints=folder / "checkpoints")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def shown(pictures, server):
    """A training that a server shows from the start on; `early`: {environment: the loss seen there while it ran}."""
    training = Training(server.folder, pictures, server.port, steps=FREQ + 1)
    wait_for(lambda: not training.is_running() or training.curve("loss"))
    training.early = {env: wait_for(lambda env=env: server.points(env, "loss")) for env in (training.run.name, NEWEST)}
    assert training.is_running()
    training.finish()
    return training


@pytest.fixture(scope="module")
def unseen(tmp_path_factory, pictures):
    """A training whose port nobody listens on."""
    training = Training(tmp_path_factory.mktemp("unseen"), pictures, free_port())
    training.finish()
    return training


def test_the_record_has_a_loss_every_print_freq_and_the_measures_and_a_log_line_of_every_epoch(shown):
    assert [x for x, _ in shown.curve("loss")] == list(range(FREQ, EPOCHS * STEPS + 1, FREQ))
    with open(shown.run / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == EPOCHS
    for name in CURVES - {"loss"}:
        assert shown.curve(name) == [(int(row["epoch"]), float(row[name])) for row in rows]
    for row, event in zip(rows, shown.events("log"), strict=True):
        facts = [f"{name} {float(row[name]):.4g}" for name in ("lr", "loss", *sorted(CURVES - {"lr", "loss"}))]
        assert event["text"] == f"epoch {row['epoch']}: {', '.join(facts)}"


def test_the_curves_grow_while_the_training_runs(shown):
    loss = shown.curve("loss")
    for early in shown.early.values():
        assert len(early) < len(loss) and early == loss[: len(early)]


def test_a_server_that_was_there_from_the_start_shows_exactly_the_record(shown, server):
    assert shown.errors == []
    check_windows(server, shown)
    wait_for(lambda: check_windows(server, shown, NEWEST) is None)  # it looks at the record at intervals


@pytest.mark.skipif(not browser() or not shutil.which("npm"), reason="needs chromium and npm")
def test_curves_and_log_are_seen_in_a_browser(shown, server, tmp_path):
    """The page itself, and a picture of it in which every pane has its curve or its text."""
    url, shot = f"http://127.0.0.1:{server.port}/env/{NEWEST}", tmp_path / "page.png"
    wait_for(lambda: check_windows(server, shown, NEWEST) is None)
    high = "--window-size=1200,1200"
    browse(url, tmp_path, high, f"--screenshot={shot}")
    if os.environ.get("KEEP_SCREENSHOT"):
        shutil.copy(shot, os.environ["KEEP_SCREENSHOT"])
    dom = browse(url, tmp_path, high, "--dump-dom")
    titles = re.findall(r'class="gtitle"[^>]*>([^<]+)<', dom)
    assert set(titles) == CURVES and len(re.findall(r'<path class="js-line"', dom)) == len(CURVES)
    assert len(re.findall(r'<path class="point"', dom)) == sum(len(shown.curve(name)) for name in CURVES)  # marked
    ticks = re.findall(r'<g class="ytick"><text[^>]*>([^<]+)<', dom)
    assert "30μ" in ticks and not any(tick.startswith("\u2212") for tick in ticks)  # the constant rate; nothing below 0
    assert all(event["text"] in dom for event in shown.events("log"))

    pixels = np.array(Image.open(shot).convert("RGB")).astype(int)
    place = r"react-grid-item[^>]*translate\((\d+)px, (\d+)px\); width: (\d+)px; height: (\d+)px"
    panes = [tuple(map(int, numbers)) for numbers in re.findall(place, dom)]
    assert len(panes) == len(CURVES) + 1
    for name, (left, top, width, height) in zip([*titles, "log"], panes, strict=True):
        # `top` counts from below the page's bar, which is 60 pixels high or so: this is the middle of the pane
        inside = pixels[top + 100 : top + height, left + 5 : left + width - 25]
        assert (inside.min(2) > 240).mean() > 0.6, f"{name} is no pane on white"
        if name == "log":
            assert (inside.max(2) < 180).mean() > 0.02  # letters
        else:
            plotly_blue = abs(inside - [31, 119, 180]).sum(2) < 30
            assert plotly_blue.any(0).mean() > 0.5, f"no curve across the pane of {name}"


def test_a_server_started_after_the_end_shows_the_same_windows_and_numbers(unseen, shown, tmp_path):
    server = Server(tmp_path, checkpoints=unseen.folder / "checkpoints")
    try:
        check_windows(server, unseen, unseen.run.name, NEWEST)
        for name in CURVES:
            assert server.points(NEWEST, name) == shown.curve(name)
    finally:
        server.kill()


@pytest.mark.slow
def test_a_server_shows_a_run_whole_that_is_resumed_after_its_start(unseen, tmp_path):
    """By a training that draws on this server itself, and by one that draws nowhere."""
    shutil.copytree(unseen.folder / "checkpoints", tmp_path / "checkpoints")
    server, (run,) = Server(tmp_path, checkpoints=tmp_path / "checkpoints"), (tmp_path / "checkpoints").iterdir()
    try:
        for epochs, port in ((EPOCHS + 1, server.port), (EPOCHS + 2, free_port())):
            options = [f"--max-epoch={epochs}", f"--vis-port={port}", "--callbacks=[]"]
            main("train", f"--resume={run}", *options, cwd=tmp_path, check=0)
            recorded = [(event["x"], event["y"]) for event in read_events(run / "events.jsonl") if is_loss(event)]
            assert recorded[-1][0] > (epochs - 1) * STEPS
            for env in (run.name, NEWEST):
                wait_for(lambda env=env, points=recorded: server.points(env, "loss") == points)
    finally:
        server.kill()


def test_a_refused_port_costs_a_line_of_warning_and_nothing_else(unseen, shown):
    check_undisturbed(unseen, shown)


def test_a_server_killed_half_way_costs_a_line_of_warning_and_nothing_else(shown, pictures, tmp_path):
    server = Server(tmp_path)
    try:
        training = Training(tmp_path, pictures, server.port, steps=EPOCHS // 2 * STEPS + 2)
        wait_for(lambda: len(server.points(training.run.name, "val_accuracy")) == EPOCHS // 2)
    finally:
        server.kill()
    assert training.is_running() and len(training.curve("val_accuracy")) < EPOCHS
    training.finish()
    check_undisturbed(training, shown)


def test_a_silent_server_costs_a_line_of_warning_and_nothing_else(shown, pictures, tmp_path):
    impatient = "from utils.visdom import screen\nscreen.TIMEOUT = 2.0, 0.5"
    with silent_server() as (port, connections):
        training = Training(tmp_path, pictures, port, steps=FREQ + 1, first=impatient)
        wait_for(lambda: connections)
        assert training.is_running()
        wait_for(lambda: "visdom: no server" in training.files[1].read_text())  # the answer is overdue
        training.finish()
    check_undisturbed(training, shown)
