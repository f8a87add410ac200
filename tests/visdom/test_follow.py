"""The server's Follower, on a real visdom server: each run in its own environment, the newest one in `default`."""

import os
import subprocess
import sys

import pytest
import visdom
from visdom_helper import HANGS, ROOT, Server, environment, free_port, wait_for

from utils.visdom import Visualizer
from utils.visdom import server as visdom_server
from utils.visdom.follow import NEWEST, Follower, Record, find_records
from utils.visdom.screen import Unreachable, other_user, read_events

HOLDS = "import sys, time; from utils.files import lock; file = open(sys.argv[1], 'ab'); print(lock(file), flush=True)"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def follower(server, tmp_path):
    return Follower(tmp_path, server.port)


@pytest.fixture
def sent(monkeypatch):
    """[(env, window, number of points), ...] of every curve that is sent to a server."""
    sent, line = [], visdom.Visdom.line

    def noted(self, Y, X, win, **keywords):
        sent.append((self.env, win, len(X)))
        return line(self, Y=Y, X=X, win=win, **keywords)

    monkeypatch.setattr(visdom.Visdom, "line", noted)
    return sent


def begin(folder, port=None, env=None):
    """The Visualizer of a run that begins or is resumed; without a port it finds no server."""
    return Visualizer(env, port or free_port(), folder / "events.jsonl")


def plot(vis, name, points):
    for x, y in points:
        vis.plot(name, y, x=x)


def test_each_run_has_its_environment_and_default_shows_the_newest_alone(server, follower, tmp_path):
    old = begin(tmp_path / "Old_1", env=NEWEST)  # as every run of 0.2.0
    plot(old, "loss", [(1, 0.5), (2, 0.4)])
    plot(old, "only in old", [(1, 1)])
    follower.look()
    for env in ("Old_1", NEWEST):
        assert server.windows(env).keys() == {"loss", "only in old"}
    new = begin(tmp_path / "below" / "New_1")
    plot(new, "loss", [(1, 0.9)])
    follower.look()
    assert server.windows(NEWEST).keys() == server.windows("New_1").keys() == {"loss"}
    # Two runs at once: what the older one adds is drawn in its own environment.
    plot(old, "loss", [(3, 0.3)])
    plot(new, "loss", [(2, 0.8)])
    follower.look()
    assert server.points("Old_1", "loss") == [(1, 0.5), (2, 0.4), (3, 0.3)]
    assert server.points("New_1", "loss") == server.points(NEWEST, "loss") == [(1, 0.9), (2, 0.8)]
    # The older one is resumed from its second step: it is the newest now, and its third step is there once.
    old = begin(tmp_path / "Old_1")
    plot(old, "loss", [(3, 0.2), (4, 0.1)])
    follower.look()
    for env in ("Old_1", NEWEST):
        assert server.points(env, "loss") == [(1, 0.5), (2, 0.4), (3, 0.2), (4, 0.1)]
    assert "only in old" in server.windows(NEWEST)


def test_a_given_environment_shows_the_run_too(server, follower, tmp_path):
    vis = begin(tmp_path / "Named_1", env="mine/1")
    plot(vis, "loss", [(1, 0.5)])
    follower.look()
    for env in ("Named_1", "mine_1", NEWEST):
        assert server.points(env, "loss") == [(1, 0.5)]


def test_only_what_was_added_is_drawn(server, follower, tmp_path, sent):
    vis = begin(tmp_path / "Long_1")
    plot(vis, "loss", [(x, x) for x in range(40)])
    follower.look()
    assert sent == [(NEWEST, "loss", 40), ("Long_1", "loss", 40)]
    sent.clear()
    follower.look()
    assert sent == []
    plot(vis, "loss", [(40, 1), (41, 2)])
    follower.look()
    assert sent == [(NEWEST, "loss", 2), ("Long_1", "loss", 2)]


@pytest.mark.parametrize("env", [None, NEWEST])
def test_what_a_live_training_draws_is_left_to_it_and_drawn_whole_once_it_has_ended(server, tmp_path, sent, env):
    folder = tmp_path / "Live_1"
    vis = begin(folder, server.port, env)
    own = vis.env
    plot(vis, "loss", [(1, 0.5), (2, 0.4)])
    wait_for(lambda: len(server.points(own, "loss")) == 2)
    command = [sys.executable, "-c", f"{HOLDS}; time.sleep({HANGS})", str(folder / "lock")]
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as training:
        assert training.stdout.readline() == "True\n"
        sent.clear()
        follower = Follower(tmp_path, server.port)
        follower.look()
        assert [env for env, *_ in sent] == [env for env in (NEWEST, "Live_1") if env != own]
        vis.close(HANGS)
        plot(vis, "loss", [(3, 0.3)])  # it is recorded, but after close not drawn
        training.kill()
    follower.look()
    for env in ("Live_1", NEWEST):
        assert server.points(env, "loss") == [(1, 0.5), (2, 0.4), (3, 0.3)]
    # It is resumed, and ends before the next look.
    vis = begin(folder, server.port, env)
    plot(vis, "loss", [(4, 0.2)])
    vis.close(HANGS)
    follower.look()
    for env in ("Live_1", NEWEST):
        assert server.points(env, "loss") == [(1, 0.5), (2, 0.4), (3, 0.3), (4, 0.2)]


def test_an_unfinished_line_waits_and_a_damaged_record_harms_no_other(server, follower, tmp_path, capsys):
    vis = begin(tmp_path / "Good_1")
    plot(vis, "loss", [(1, 0.5)])
    vis.close()
    capsys.readouterr()
    damaged = tmp_path / "Damaged_1" / "events.jsonl"
    damaged.parent.mkdir()
    (tmp_path / "Lost_1").mkdir()
    (tmp_path / "Lost_1" / "events.jsonl").symlink_to("nowhere")
    damaged.write_text('{"kind": "env"}\n{"kind": "env", "time": "late", "env": "x"}\n[]\n{"kind": "plot"}\nno\n')
    with open(vis.record, "a") as file:
        file.write('{"kind": "plot", "name": "loss", "x": 2')
        file.flush()
        follower.look()
        assert server.points("Good_1", "loss") == [(1, 0.5)]
        file.write(', "y": 0.25}\n')
    follower.look()
    assert server.points("Good_1", "loss") == server.points(NEWEST, "loss") == [(1, 0.5), (2, 0.25)]
    # A file that became shorter is read again, and one that is gone is forgotten.
    first = next(line for line in open(vis.record) if '"env"' in line)
    with open(vis.record, "w") as file:
        file.write(first + '{"kind": "plot", "name": "lr", "x": 1, "y": 1}\n')
    follower.look()
    assert server.windows(NEWEST).keys() == {"lr"} and server.points("Good_1", "lr") == [(1, 1)]
    os.remove(vis.record)
    follower.look()
    assert sorted(path.parent.name for path in follower.records) == ["Damaged_1", "Lost_1"]
    assert capsys.readouterr().err == ""


def test_a_server_that_does_not_answer_is_one_warning_and_tried_again(server, follower, tmp_path, monkeypatch, capsys):
    vis = begin(tmp_path / "Patient_1")
    plot(vis, "loss", [(1, 0.5)])
    vis.close()
    capsys.readouterr()

    def fail(*_, **__):
        raise Unreachable("it sleeps")

    with monkeypatch.context() as patch:
        patch.setattr(visdom.Visdom, "line", fail)
        follower.look()
        follower.look()
    warnings = [f"warning: visdom: cannot show {vis.record} (it sleeps)"] * 2  # in Patient_1 and in default
    assert capsys.readouterr().err.splitlines() == warnings
    follower.look()
    assert server.points("Patient_1", "loss") == server.points(NEWEST, "loss") == [(1, 0.5)]


def test_the_pictures_of_a_run_are_not_looked_through(tmp_path):
    for place in ("a", "a/images", "b/c/d"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "events.jsonl").touch()
    found = sorted(str(path.relative_to(tmp_path)) for path in find_records(tmp_path))
    assert found == ["a/events.jsonl", "b/c/d/events.jsonl"]
    assert not Record(tmp_path / "a" / "events.jsonl").in_training() and not (tmp_path / "a" / "lock").exists()


def test_a_server_that_runs_already_gets_the_runs_but_for_default(server, tmp_path, capsys):
    plot(begin(tmp_path / "Other_1"), "loss", [(1, 0.5)])
    default = server.windows(NEWEST)
    assert visdom_server.main([f"--port={server.port}", f"--checkpoints={tmp_path}"]) == 0
    assert server.points("Other_1", "loss") == [(1, 0.5)] and server.windows(NEWEST) == default
    assert f"the server on port {server.port} shows the runs in {tmp_path}" in capsys.readouterr().out


def test_default_is_there_before_the_first_run(tmp_path):
    server = Server(tmp_path)
    try:
        assert NEWEST in visdom.Visdom(port=server.port, use_incoming_socket=False).get_env_list()
        assert server.windows(NEWEST) == {}
    finally:
        server.kill()


def test_nothing_is_drawn_on_the_server_of_another_user(server, tmp_path, monkeypatch, capsys):
    me = os.getuid()
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: me + 1)
        vis = begin(tmp_path / "Foreign_1", server.port)
        plot(vis, "loss", [(1, 0.5), (2, 0.4)])
        vis.close(HANGS)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"warning: visdom: the server at http://localhost:{server.port} belongs to the user ")
        assert f"recorded in {vis.record}" in line and "--vis-port=N" in line and "make visdom" not in line
        assert visdom_server.main([f"--port={server.port}", f"--checkpoints={tmp_path}"]) == 2
        assert f"port {server.port} is taken" in capsys.readouterr().err
    assert "Foreign_1" not in visdom.Visdom(port=server.port, use_incoming_socket=False).get_env_list()
    assert [event["y"] for event in read_events(vis.record) if event["kind"] == "plot"] == [0.5, 0.4]


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="needs root, to be another user")
def test_whose_program_listens_is_known(server):
    code = "import os, socket, sys; os.setuid(int(sys.argv[1])); made = {}; "
    code += "print(made.getsockname()[1], flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}

    def owner(user, call):
        with subprocess.Popen([sys.executable, "-c", code.format(call), str(user)], **pipes) as program:
            return other_user(int(program.stdout.readline()))

    listens = "socket.create_server(('127.0.0.1', 0))"
    assert owner(65534, listens) == "the user nobody" and owner(4_000_000, listens) == "the user 4000000"
    assert owner(os.getuid(), listens) is None and other_user(free_port()) is None
    assert owner(65534, f"socket.socket(); made.connect(('127.0.0.1', {server.port}))") is None  # no listener
