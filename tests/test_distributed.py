"""Several processes under a real torchrun: shares, sums, one writer, and no run lost."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest
import torch
from conftest import ROOT, main
from test_debug import Training
from test_training import differences, events, only_run, rows

from data.base import BaseData
from data.heart import PointMeter
from models.checkpoint import read_checkpoint
from utils import UserError
from utils.class_meter import ClassMeter
from utils.iou_meter import IoUMeter
from utils.loader import BatchOrder
from utils.meters import ConfusionMeter, LossMeter

# A model with BatchNorm and dropout; so many epochs that a run can be disturbed in the middle.
OPTIONS = ["--model=mobilenet_v2", "--width=0.25", "--image-size=32", "--batch-size=8", "--vis-port=1", "--max-epoch=6"]
OPTIONS += ["--precision=fp32", "--print-freq=1", "--ema=0.9", "--save-freq=2", "--accumulate=2"]
WAIT = 120  # seconds: only processes that hang take so long


class Samples(BaseData):
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


def launch(*arguments, cwd, restarts=0, program=ROOT / "main.py"):
    """Start torchrun with two processes; a group of its own, so that nothing is left behind."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}"]
    return subprocess.Popen(
        [sys.executable, *torchrun, str(program), "train", *map(str, arguments)],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )


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
    """The run of two processes that nobody disturbed, and what was printed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    process = launch(f"--train-data-root={pictures}", *OPTIONS, cwd=folder)
    printed, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, printed
    return only_run(folder), printed


# --- shares


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("count", [12, 13, 17, 25])
def test_every_sample_is_somebodys_and_nobodys_twice(size, count):
    whole = BatchOrder(Samples(count), 6, seed=1)
    shares = [BatchOrder(Samples(count), 6, 1, rank, size) for rank in range(size)]
    assert len({len(share) for share in shares}) == 1
    for share in shares:
        share.start(3, 0)
    whole.start(3, 0)
    steps = list(zip(*shares, strict=True))
    for together, parts in zip(whole, steps, strict=False):
        assert sorted(together) == sorted(sum(parts, [])) and min(map(len, parts)) > 1
        assert whole.samples(3, steps.index(parts)) == together
    left = sum(len(part) for parts in steps for part in parts)
    assert count - left < 2 * size  # of the last batch, where BatchNorm could not learn from it

    pieces = [sum(BatchOrder(Samples(count), 5, None, rank, size), []) for rank in range(size)]
    assert sum(pieces, []) == list(range(count))  # in order, for the mistakes that the report shows


@pytest.mark.parametrize("count, batch_size", [(2, 8), (20, 2)])
def test_less_than_a_sample_each_is_refused(count, batch_size):
    with pytest.raises(UserError, match="cannot be shared out to 3 processes"):
        BatchOrder(Samples(count), batch_size, 1, 0, 3)


def fed(meter, batches):
    for batch in batches:
        meter.add(*batch)
    return meter


@pytest.mark.parametrize("kind", [ConfusionMeter, ClassMeter, IoUMeter])
def test_merged_meters_have_counted_everything_once(kind):
    random = torch.Generator().manual_seed(0)
    shape = (7, 4, 3, 3) if kind is IoUMeter else (7, 4)
    scores = [torch.rand(*shape, generator=random).softmax(1) for _ in range(5)]
    batches = [(score, torch.randint(0, 4, (7, *shape[2:]), generator=random)) for score in scores]
    whole = fed(kind("abcd"), batches)
    parts = [fed(kind("abcd"), some).state_dict() for some in (batches[:2], [], batches[2:])]
    merged = kind("abcd")
    merged.merge(parts)
    assert differences(whole.state_dict(), merged.state_dict()) == [] and merged.summary() == whole.summary()


def test_merged_points_are_drawn_in_their_order(tmp_path):
    points, random = torch.rand(9, 1, 2), torch.Generator().manual_seed(0)
    batches = [(torch.rand(3, 1, generator=random), torch.randint(2, (3, 1), generator=random)) for _ in range(3)]
    whole, merged = fed(PointMeter(["out", "in"], points), batches), PointMeter(["out", "in"], points)
    merged.merge([fed(PointMeter(["out", "in"], points), some).state_dict() for some in (batches[:1], batches[1:])])
    for name, meter in (("whole", whole), ("merged", merged)):
        (tmp_path / name).mkdir()
        meter.report(tmp_path / name)
    for name in ("truth.png", "labels.png"):
        assert (tmp_path / "merged" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_merged_losses_are_those_of_all():
    values = torch.rand(9, 2, generator=torch.Generator().manual_seed(0))
    batches = [({"a": a, "b": b}, number) for number, (a, b) in enumerate(values, start=1)]
    whole, merged = fed(LossMeter(), batches), LossMeter()
    merged.merge([fed(LossMeter(), some).state_dict() for some in (batches[:4], [], batches[4:])])
    assert merged.summary() == pytest.approx(whole.summary()) and merged.value() == pytest.approx(whole.value())


# --- whole runs


def test_two_processes_train_one_run(undisturbed):
    run, printed = undisturbed
    assert printed.count("finished: ") == 1 and printed.count("user config:") == 1
    assert "28 samples to train on, 12 to validate on" in printed
    assert len(list(run.parent.iterdir())) == 1 and [row["epoch"] for row in rows(run)] == [str(n) for n in range(1, 7)]
    assert rows(run)[-1]["step"] == "24" and not list(run.glob("*.tmp"))  # 3 batches of 8 and one of 4
    with open(run / "confusion.csv") as file:
        counts = [int(cell) for line in file.read().splitlines()[1:] for cell in line.split(",")[1:]]
    assert sum(counts) == 12  # nothing padded, nothing left out
    trained = read_checkpoint(run / "last.pth")["train_meter"]["counts"]
    assert trained.sum() == 28


def test_stopped_in_an_epoch_and_resumed_it_ends_in_the_same_bits(undisturbed, tmp_path, pictures):
    process = launch(f"--train-data-root={pictures}", *OPTIONS, cwd=tmp_path)
    for line in process.stdout:
        if line.startswith("epoch 2/"):
            break
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=WAIT)
    assert process.returncode != 0 and rest.count("stopped; to go on: ") == 1, rest
    assert "main.py" not in re.sub(r"(?s)stopped; to go on.*", "", rest)  # no error of ours
    stopped = read_checkpoint(only_run(tmp_path) / "last.pth")
    assert stopped["run"]["step"] >= 8 and stopped["train_meter"]["counts"].sum() % 8 in (0, 4)
    process = launch("--resume", cwd=tmp_path)
    printed, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, printed
    assert differences(state(undisturbed[0]), state(only_run(tmp_path))) == []
    assert logged(undisturbed[0]) == logged(only_run(tmp_path))


SLOWLY = f"""
import pathlib, runpy, sys, time
sys.path.insert(0, {str(ROOT)!r})
from models.basic_module import BasicModule
plain = BasicModule.decode
def decode(self, score):
    if any('"loss"' in path.read_text() for path in pathlib.Path().glob("checkpoints/*/events.jsonl")):
        pathlib.Path("validates").touch()  # and not the summary before the training
        time.sleep(1)
    return plain(self, score)
BasicModule.decode = decode
sys.argv[0] = {str(ROOT / "main.py")!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_stopped_in_a_validation_all_finish_it_and_end_together(tmp_path, pictures):
    (tmp_path / "slowly.py").write_text(SLOWLY)
    options = [f"--train-data-root={pictures}", *OPTIONS, "--val-batch-size=2"]
    process = launch(*options, cwd=tmp_path, program=tmp_path / "slowly.py")
    end = time.monotonic() + WAIT
    while not (tmp_path / "validates").exists():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=WAIT)
    assert printed.count("stopped; to go on: ") == 1 and "has lost another one" not in printed, printed
    position = read_checkpoint(only_run(tmp_path) / "last.pth")["run"]
    assert (position["epoch"], position["batch"], position["step"]) == (0, 4, 4)


def test_one_process_begins_two_go_on_and_the_rate_does_not_notice(tmp_path, pictures):
    """28 samples in batches of 13 are three steps for one process; two leave the last two samples out."""
    options = [f"--train-data-root={pictures}", *OPTIONS, "--batch-size=13", "--scheduler=linear", "--lr-final=0"]
    options = [option for option in options if option not in ("--max-epoch=6", "--batch-size=8")]
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
    process = launch(f"--train-data-root={pictures}", *OPTIONS, cwd=tmp_path, restarts=restarts)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("epoch 2/"):
            break
    victims = children(process.pid)
    assert len(victims) == 2
    os.kill(victims[1], signal.SIGKILL)
    began = time.monotonic()
    rest, _ = process.communicate(timeout=WAIT)
    printed = "".join(lines) + rest
    if restarts:
        assert process.returncode == 0, printed
        assert differences(state(undisturbed[0]), state(only_run(tmp_path))) == []
        assert logged(undisturbed[0]) == logged(only_run(tmp_path))
        assert "going on with" in rest and len(list((tmp_path / "checkpoints").iterdir())) == 1
    else:
        assert process.returncode != 0 and time.monotonic() - began < 60
        assert len(re.findall("^main.py: process 0 of 2 has lost another one", printed, re.MULTILINE)) == 1, printed
        assert 'main.py", line' not in printed  # no traceback of ours
    assert not any(Path(f"/proc/{victim}").exists() for victim in victims)


def test_the_others_wait_for_the_debugger_and_all_stop_together(undisturbed, tmp_path, pictures):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = [f"--train-data-root={pictures}", *OPTIONS, f"--debug-file={tmp_path / 'debug'}"]
    session = Training([*torchrun, str(ROOT / "main.py"), "train", *options], tmp_path)
    session.wait("epoch 1/6")
    session.touch()
    assert session.value("(world.rank, world.size)") == (0, 2)
    session.do("n")
    session.child.sendline("q")
    session.child.expect(pexpect.EOF)
    session.child.close()
    assert session.child.exitstatus == 0 and 0 < read_checkpoint(only_run(tmp_path) / "last.pth")["run"]["step"] < 24
    process = launch("--resume", cwd=tmp_path)
    printed, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0, printed
    assert differences(state(undisturbed[0]), state(only_run(tmp_path))) == []
