"""`python main.py control`: real trainings without a terminal, told what to do by another process."""

import contextlib
import json
import multiprocessing
import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest
from conftest import NO_SERVER, ROOT, UNDRAWN, cold, server
from launched import Launched
from runs import begun, differences, events, only_run, rows
from terminal import PROMPT, Training

from benchmarks.faults_steering import SLOWER
from utils.run.checkpoint_file import read_checkpoint
from utils.steer.channel import Listener, address

HEART = ["--config=Heart", NO_SERVER, "--keep-every=0", "--print-freq=5", "--batch-size=1000", "--scheduler=constant"]


def control(folder, *options, check=0):
    done = cold("control", *options, cwd=folder)
    assert done.returncode == check, done.stdout + done.stderr
    return (done.stdout + done.stderr).strip()


def step_of(answer):
    return int(answer.partition("after step ")[2].partition(":")[0])


def last(run):
    return {name: value for name, value in read_checkpoint(run / "last.pth").items() if name != "info"}


def numbers(run):
    return [{name: text for name, text in row.items() if "seconds" not in name} for row in rows(run)]


def commands(run):
    return [(event["step"], event["command"]) for event in events(run) if event["kind"] == "control"]


def test_a_run_without_a_terminal_is_steered_and_resumed_and_a_replay_ends_in_the_same_bits(tmp_path):
    steered, again = tmp_path / "steered", tmp_path / "again"
    for folder in (steered, again):
        folder.mkdir()
    server().start("train", *HEART, "--max-epoch=50", cwd=steered, first=SLOWER)
    run = begun(steered)
    assert re.search(r"training: epoch \d+/50", control(steered, "--status"))
    assert "learning rate 0.1 -> 0.05" in control(steered, "--lr=0.05")
    paused = control(steered, f"--run={run.name}", "--pause")
    status = re.search(r"paused: epoch (\d+)/50, .*step (\d+),", control(steered, "--status"))
    last_epoch = int(status[1]) + 1
    assert int(status[2]) == step_of(paused) == step_of(control(steered, f"--max-epoch={last_epoch}"))
    assert step_of(control(steered, "--go-on")) == step_of(paused)
    assert "refused: the run is not paused" in control(steered, "--go-on", check=2)
    assert "frozen: 2 weights" in control(steered, "--freeze=layers.1")
    saved = step_of(control(steered, "--save"))
    assert read_checkpoint(run / "last.pth")["run"]["step"] == saved
    assert "the run ends" in control(steered, "--stop")
    assert server().wait() == 130 and "stopped; to resume" in (steered / "output").read_text(), "as after Ctrl-C"

    frozen = last(run)["weights"]["layers.1.weight"]
    assert server().run("train", "--resume", cwd=steered, first=SLOWER) == 0
    assert (last(run)["weights"]["layers.1.weight"] == frozen).all(), "also after it was resumed"
    assert [row["epoch"] for row in numbers(run)] == [str(epoch) for epoch in range(1, last_epoch + 1)]
    made = commands(run)
    assert [command for _, command in made] == [{"lr": 0.05}, {"max_epoch": last_epoch}, {"freeze": ["layers.1"]}]

    replayed = ["train", *HEART, "--max-epoch=50", f"--replay={run}"]
    assert server().run(*replayed, cwd=again, first=SLOWER) == 0
    assert differences(last(run), last(only_run(again))) == []
    assert numbers(run) == numbers(only_run(again)) and commands(only_run(again)) == made


def test_a_killed_run_makes_the_commands_again_that_its_checkpoint_does_not_have(tmp_path):
    killed, again = tmp_path / "killed", tmp_path / "again"
    for folder in (killed, again):
        folder.mkdir()
    pid = server().start("train", *HEART, "--max-epoch=2", cwd=killed, first=SLOWER)
    run = begun(killed)
    step = step_of(control(killed, "--lr=0.03"))
    os.kill(pid, signal.SIGKILL)
    server().wait()
    assert read_checkpoint(run / "last.pth")["run"]["step"] < step and commands(run) == [(step, {"lr": 0.03})]
    assert address(run).exists(), "left behind, and in nobody's way"
    assert "no run in checkpoints is being trained" in control(killed, "--status", check=2)
    assert server().run("train", "--resume", cwd=killed, first=SLOWER) == 0
    assert not address(run).exists()
    assert commands(run) == [(step, {"lr": 0.03})] and last(run)["run"]["steered"] == [[step, {"lr": 0.03}]]
    replayed = ["train", *HEART, "--max-epoch=2", f"--replay={run}"]
    assert server().run(*replayed, cwd=again, first=SLOWER) == 0
    assert differences(last(run), last(only_run(again))) == []


@pytest.mark.slow
def test_two_processes_obey_after_the_same_step_and_each_is_entered_while_the_other_waits(tmp_path):
    both, again = tmp_path / "both", tmp_path / "again"
    for folder in (both, again):
        folder.mkdir()
    command = ["train", *HEART, "--processes=2", "--max-epoch=40"]
    process = Launched(*command, cwd=both, first=f"import os; os.environ['HOME'] = os.getcwd(); {UNDRAWN}")
    run = begun(both)
    control(both, "--pause")
    for rank in (1, 0):  # also of a paused run
        session = Training([sys.executable, str(ROOT / "main.py"), "control", "--debug", f"--rank={rank}"], both)
        session.wait(PROMPT)
        assert session.value("(world.rank, world.size)") == (rank, 2)
        assert "callbacks.on_batch_begin()" in session.do("n") + session.do("n") + session.do("n")
        assert session.end("c\n") == 0 and "paused: " in control(both, "--status")
    control(both, "--lr=0.02", "--freeze=layers.1")
    control(both, "--go-on", "--max-epoch=2")
    printed, _ = process.communicate()
    assert process.returncode == 0 and "\nepoch 2/2: " in printed, printed
    process = Launched(*command, f"--replay={run}", cwd=again, first=UNDRAWN)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert differences(last(run), last(only_run(again))) == [] and numbers(run) == numbers(only_run(again))


def test_what_makes_no_sense_is_one_line_and_the_run_goes_on(tmp_path):
    assert "control says nothing: give one or more of --lr" in control(tmp_path, check=2)
    assert "--pause and --go-on contradict each other" in control(tmp_path, "--pause", "--go-on", check=2)
    assert "--run=x: no such run" in control(tmp_path, "--run=x", "--status", check=2)
    assert "control does not read --batch-size" in control(tmp_path, "--batch-size=3", check=2)
    server().start("train", *HEART, "--max-epoch=50", cwd=tmp_path, first=SLOWER)
    run = begun(tmp_path)
    for options, message in {
        ("--freeze=layer.0",): "no weight's name begins with layer.0; did you mean layers.",
        ("--freeze=layers",): "leaves nothing to train",
        ("--max-epoch=0",): "--max-epoch cannot be '0'",
        ("--lr=-1",): "--lr cannot be '-1'",
    }.items():
        assert message in control(tmp_path, *options, check=2)
    with socket.socket(socket.AF_UNIX) as connection:  # a controller that goes away, and one that was cut off
        connection.connect(str(address(run)))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(address(run)))
        connection.sendall(b'{"lr": \n')
        assert b"cut off" in connection.recv(1000)
    address(run).unlink()  # as on another machine, where only the file system is shared
    assert "learning rate 0.1 -> 0.07" in control(tmp_path, "--lr=0.07")
    link = run / "control" / "1.json"
    (tmp_path / "elsewhere").write_text('{"stop": true}')
    link.symlink_to(tmp_path / "elsewhere")
    assert "the run ends" in control(tmp_path, "--stop") and link.is_symlink()
    assert server().wait() == 130
    assert [command for _, command in commands(run)] == [{"lr": 0.07}]


def test_without_steer_a_run_listens_to_nobody_and_a_folder_of_others_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    open_to_all = tmp_path / f"hearth_{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    with pytest.raises(Exception, match="is not a folder of yours alone"):
        Listener(tmp_path, str).open()
    open_to_all.rmdir()
    listener = Listener(tmp_path, lambda: "fine")
    listener.open()
    assert open_to_all.stat().st_mode & 0o777 == 0o700
    with contextlib.closing(listener), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(address(tmp_path)))
        connection.sendall(b'{"status": true}\n')
        assert json.loads(connection.recv(100)) == "fine"
    assert not list(Path(open_to_all).iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")
def test_another_user_is_not_obeyed(tmp_path):
    tmp_path.chmod(0o755)
    listener = Listener(tmp_path, lambda: "fine")
    listener.open()

    place = str(address(tmp_path))

    def ask():
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(PermissionError):
            connection.connect(place)
            os._exit(1)

    process = multiprocessing.get_context("fork").Process(target=ask)
    process.start()
    process.join()
    assert process.exitcode == 0
    foreign = tmp_path / "control" / "1.json"
    foreign.parent.mkdir(exist_ok=True)
    foreign.write_text('{"stop": true}')
    os.chown(foreign, 65534, 65534)
    listener.look_for_files(now=True)
    assert listener.requests.empty() and foreign.exists()
    listener.close()
