"""Several processes under a real torchrun: one run, one writer, and none lost."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, main, server
from launched import FORKED, TORCHRUN, torchrun
from runs import differences, events, only_run, rows
from terminal import PROMPT, Forked
from wait import until

from utils.run.checkpoint_file import read_checkpoint

# A model with BatchNorm and dropout; enough epochs that a run can be disturbed in the middle.
pytestmark = pytest.mark.slow
OPTIONS = ["--model=mobilenet_v2", "--width=0.25", "--image-size=32", "--batch-size=8", "--vis-port=1", "--max-epoch=4"]
OPTIONS += ["--precision=fp32", "--print-freq=1", "--ema=0.9", "--save-freq=2", "--accumulate=2"]
WAIT = 600  # seconds: only processes that hang take as long


def launch(*arguments, cwd, restarts=0, hold=-1):
    """Start torchrun with two processes, see HELD, as forks of one that has loaded everything."""
    return torchrun(held(cwd, hold), "train", *arguments, cwd=cwd, restarts=restarts)


# main.py, whose processes wait for the test in a step, or in a validation: until there is a file `go`, or a signal has
# been noted. So nothing depends on how fast they are. Each writes down its weights after every step; the files of their
# plots stay empty.
HELD = f"""
import os, pathlib, runpy, sys, time
sys.path.insert(0, {str(ROOT)!r})
from utils.train import machine
machine.prepare()
from matplotlib.figure import Figure
from models.basic_module import BasicModule
from utils.run.signals import Signals
from utils.train.step import TrainStep
apply, decode, note, rank = TrainStep.apply, BasicModule.decode, Signals._note, os.environ["RANK"]

def hold():
    pathlib.Path("held_" + rank).touch()
    while not any(pathlib.Path(name).exists() for name in ("go", "noted_" + rank)):
        time.sleep(0.01)

def held_apply(self, number):
    if number == HOLD:
        hold()
    apply(self, number)
    weights = b"".join(value.numpy().tobytes() for value in self.model.state_dict().values())
    pathlib.Path("weights_" + rank).write_bytes(weights)

def held_decode(self, score):
    if HOLD is None and any('"loss"' in path.read_text() for path in pathlib.Path().glob("checkpoints/*/events.jsonl")):
        hold()  # and not in the summary before the training
    return decode(self, score)

def noted(self, *signal):
    note(self, *signal)
    pathlib.Path("noted_" + rank).touch()

TrainStep.apply, BasicModule.decode, Signals._note = held_apply, held_decode, noted
Figure.savefig = lambda *_, **__: None
sys.argv[0] = {str(ROOT / "main.py")!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def held(folder, step):
    """Such a program: its processes wait in the step with this number, counted from 0; None: in the validation; -1:
    nowhere."""
    path = folder / "held.py"
    path.write_text(f"HOLD = {step}\n{HELD}")
    return path


def wait_for_both(folder, process):
    """Both processes have come to where they are held."""
    until(lambda: process.poll() is not None or all((folder / f"held_{rank}").exists() for rank in range(2)))
    assert process.poll() is None, process.communicate()[0]


def the_same_weights(folder):
    """Whether both processes ended with the same weights, bit by bit."""
    one, other = ((folder / f"weights_{rank}").read_bytes() for rank in range(2))
    return one == other and len(one) > 1000


def children(pid):
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state(run):
    return {name: value for name, value in read_checkpoint(run / "last.pth").items() if name != "info"}


def logged(run):
    """The last value of every point that was plotted."""
    return {(event["name"], event["x"]): event["y"] for event in events(run) if event["kind"] == "plot"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, pictures):
    """The run of two processes that nobody disturbed, of torchrun's own command line, and what was printed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(held(folder, -1)), "train", f"--train-data-root={pictures}", *OPTIONS]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert the_same_weights(folder)
    return only_run(folder), done.stdout + done.stderr


def test_two_processes_train_one_run(undisturbed):
    run, printed = undisturbed
    assert printed.count("finished: ") == 1 and printed.count("user config:") == 1
    assert "28 samples to train on, 12 to validate on" in printed
    assert len(list(run.parent.iterdir())) == 1 and [row["epoch"] for row in rows(run)] == [str(n) for n in range(1, 5)]
    assert rows(run)[-1]["step"] == "16" and not list(run.glob("*.tmp"))  # 3 batches of 8 and one of 4
    with open(run / "confusion.csv") as file:
        counts = [int(cell) for line in file.read().splitlines()[1:] for cell in line.split(",")[1:]]
    assert sum(counts) == 12  # nothing padded, nothing left out
    trained = read_checkpoint(run / "last.pth")["meters"]["scores"]["counts"]
    assert trained.sum() == 28


def test_stopped_in_an_epoch_and_resumed_it_ends_in_the_same_bits(undisturbed, tmp_path, pictures):
    process = launch(f"--train-data-root={pictures}", *OPTIONS, cwd=tmp_path, hold=9)
    wait_for_both(tmp_path, process)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=WAIT)
    assert process.returncode != 0 and printed.count("stopped; to resume: ") == 1, printed
    assert "main.py" not in re.sub(r"(?s)stopped; to resume.*", "", printed)  # no error of ours
    stopped = read_checkpoint(only_run(tmp_path) / "last.pth")
    assert stopped["run"]["step"] == 10 and stopped["meters"]["scores"]["counts"].sum() == 16
    process = launch("--resume", cwd=tmp_path)
    printed, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, printed
    assert differences(state(undisturbed[0]), state(only_run(tmp_path))) == [] and the_same_weights(tmp_path)
    assert logged(undisturbed[0]) == logged(only_run(tmp_path))


def test_stopped_in_a_validation_all_finish_it_and_end_together(tmp_path, pictures):
    options = [f"--train-data-root={pictures}", *OPTIONS, "--val-batch-size=2"]
    process = launch(*options, cwd=tmp_path, hold=None)
    wait_for_both(tmp_path, process)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=WAIT)
    assert printed.count("stopped; to resume: ") == 1 and "has lost another one" not in printed, printed
    position = read_checkpoint(only_run(tmp_path) / "last.pth")["run"]
    assert (position["epoch"], position["batch"], position["step"]) == (0, 4, 4)


def test_one_process_begins_two_resume_and_the_rate_does_not_notice(tmp_path, pictures):
    """28 samples in batches of 13 are three steps for one process; two leave the last two samples out."""
    options = [f"--train-data-root={pictures}", *OPTIONS, "--batch-size=13", "--scheduler=linear", "--lr-final=0"]
    options = [option for option in options if option not in ("--max-epoch=4", "--batch-size=8")]
    main("train", *options, "--max-epoch=2", cwd=tmp_path, check=0)
    process = launch(f"--resume={only_run(tmp_path)}", "--max-epoch=4", cwd=tmp_path)
    printed, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, printed
    rates = [float(row["lr"]) / 0.001 for row in rows(only_run(tmp_path))]
    # After five of six steps, and two of the four epochs; then after one of two steps each in the third and the fourth.
    assert rates == pytest.approx([1 - 2 / 6, 1 - 5 / 6, 1 - 5 / 8, 1 - 7 / 8])
    assert [row["step"] for row in rows(only_run(tmp_path))] == ["3", "6", "8", "10"]


@pytest.mark.parametrize("restarts", [0, 1])
def test_a_killed_process_ends_all_or_starts_them_again(restarts, undisturbed, tmp_path, pictures):
    process = launch(f"--train-data-root={pictures}", *OPTIONS, cwd=tmp_path, restarts=restarts, hold=9)
    wait_for_both(tmp_path, process)
    victims = children(process.pid)
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGKILL)
    (tmp_path / "go").touch()
    printed, _ = process.communicate(timeout=WAIT)
    if restarts:
        assert process.returncode == 0, printed
        assert differences(state(undisturbed[0]), state(only_run(tmp_path))) == []
        assert logged(undisturbed[0]) == logged(only_run(tmp_path))
        assert printed.count("resuming ") == 1 and len(list((tmp_path / "checkpoints").iterdir())) == 1
    else:
        assert process.returncode != 0
        assert len(re.findall("^main.py: process 0 of 2 has lost another one", printed, re.MULTILINE)) == 1, printed
        assert 'main.py", line' not in printed  # no traceback of ours
        assert "what was done after 2 epochs and 0 batches is not saved" in printed  # what was killed counted, too
    assert not any(Path(f"/proc/{victim}").exists() for victim in victims)


FAILS = """
import hashlib, os
from utils.train.step import TrainStep
objective, seen = TrainStep.objective, []
def failing(self, input, target):
    score, losses = objective(self, input, target)
    seen.append(hashlib.sha256(input.numpy().tobytes() + score.detach().numpy().tobytes()).hexdigest())
    if CONDITION:
        raise ValueError("no such luck " + seen[-1])
    return score, losses
TrainStep.objective = failing
"""


@pytest.mark.parametrize("failing", [0, 1])
def test_an_exception_in_one_process_keeps_what_all_have_done(failing, tmp_path, pictures):
    """Saved were four steps, and five are made; what the two counted in the fifth is not merged yet."""
    program = held(tmp_path, -1)
    second = FAILS.replace("CONDITION", f"int(rank) == {failing} and len(seen) == 11")  # half of the sixth step
    program.write_text(program.read_text().replace("sys.argv[0] =", f"{second}\nsys.argv[0] ="))
    options = [f"--train-data-root={pictures}", *OPTIONS, "--print-freq=100"]
    options.remove("--print-freq=1")
    process = torchrun(program, "train", *options, cwd=tmp_path)
    printed, _ = process.communicate(timeout=WAIT)
    assert process.returncode and "ValueError: no such luck" in printed and "is not saved" not in printed
    assert printed.count("stopped; to resume: ") == 1
    saved = state(only_run(tmp_path))
    weights = b"".join(value.numpy().tobytes() for value in saved["weights"].values())
    assert saved["run"]["step"] == 5 and saved["meters"]["scores"]["counts"].sum() == 8  # of both, of one step
    assert the_same_weights(tmp_path) and weights == (tmp_path / "weights_0").read_bytes()

    step = json.loads((only_run(tmp_path) / "failed_step.json").read_text())
    assert (step["rank"], step["processes"], step["step"], len(step["samples"])) == (failing, 2, 5, 4)
    again = FAILS.replace("CONDITION", f"seen[-1] in {step['error']!r}")  # by one process
    replayed = ["train", f"--replay={only_run(tmp_path).name}", "--step=last"]
    assert server().run(*replayed, cwd=tmp_path, first=again) == 1
    output = (tmp_path / "output").read_text()
    assert "step 6 (epoch 2, batch 2) failed again, as before" in output and f"{step['error']}\n" in output


def test_the_others_wait_for_the_debugger_and_all_stop_together(undisturbed, tmp_path, pictures):
    options = [f"--train-data-root={pictures}", *OPTIONS, f"--debug-file={tmp_path / 'debug'}"]
    command = ["--standalone", "--nproc-per-node=2", held(tmp_path, 9), "train", *options]
    session = Forked(command, tmp_path, FORKED, TORCHRUN)
    until(lambda: all((tmp_path / f"held_{rank}").exists() for rank in range(2)))
    session.touch_file.touch()
    (tmp_path / "go").touch()
    session.wait(PROMPT)
    assert session.value("(world.rank, world.size)") == (0, 2)
    session.do("n")
    assert session.end("q\n") == 0 and 10 <= read_checkpoint(only_run(tmp_path) / "last.pth")["run"]["step"] < 16
    process = launch("--resume", cwd=tmp_path)
    printed, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, printed
    assert differences(state(undisturbed[0]), state(only_run(tmp_path))) == [] and the_same_weights(tmp_path)
