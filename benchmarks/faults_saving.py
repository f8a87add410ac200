"""What saving costs, and what kill -9 in the middle of it leaves.

    python -m benchmarks.faults_saving    in the project's folder; half a minute, 1 GB of temporary files

First 200 processes, one after another, resume the same run, save it after every step, and are killed at a random
moment up to 4 ms after a save. After each kill the run is opened as --resume does: it has to have every step that was
saved, in sound files, and no temporary one. Then ResNet34 with Adam's state (256 MB) is saved, turn by turn as hearth
does it and by torch.save to a file beside, flushed and renamed, without sums and without being read again.

Prints how many kills came while a file was half written, what was lost, and n, median and range of the times.
"""

import contextlib
import os
import random
import signal
import struct
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a thread of the parent's is not there in its children

import torch
from torch import nn

from benchmarks.common import Report, arguments, hardware, ratios, spread
from models import ResNet34
from models.basic_module import BasicModule
from utils.metrics.meters import LossMeter, TrainMeters
from utils.run.checkpoint import Checkpoint
from utils.run.run import Run, State
from utils.train.processes import ALONE
from utils.train.step import TrainStep


class Tiny(BasicModule):
    def __init__(self, num_classes=2, width=8):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.classifier = nn.Linear(width, num_classes)


class Parts:
    """A run's state made of any parts, by name, see State of utils/run/run.py."""

    def __init__(self, **parts):
        vars(self).update(parts)

    state_dict, load_state_dict = State.state_dict, State.load_state_dict


def keeper(folder, width=8, world=ALONE, **parts):
    """A Checkpoint of a Tiny that trains in `folder`, restored; it saves after every step."""
    model = Tiny(width=width)
    optimizer = model.get_optimizer("Adam", 0.1, 0.0, 0.9)
    folder.mkdir(exist_ok=True)
    run = Run(folder)
    parts = {"run": run, "optimizer": optimizer, "step": TrainStep(model, optimizer), **parts}
    state = Parts(**parts, meters=TrainMeters(LossMeter()))
    options = {"monitor": None, "keep_last": 0, "keep_every": 0, "keep_from": 1}
    made = Checkpoint(model, state, ["accuracy"], save_freq=1, world=world, **options)
    made.restore()
    return made


def advance(checkpoint, save=True):
    """Make a step, after which every parameter is its number."""
    checkpoint.run.step += 1
    checkpoint.run.batch += 1
    for parameter in checkpoint.model.parameters():
        parameter.data.fill_(checkpoint.run.step)
    if save:
        checkpoint.on_batch_end()


def save_until_killed(folder, told):
    """In a process of its own: save step after step and write the number of each to the pipe `told`."""
    try:
        checkpoint = keeper(folder, width=50_000)
        while True:
            advance(checkpoint)
            os.write(told, struct.pack("I", checkpoint.run.step))
    finally:
        os._exit(1)


def killed_while_saving(folder, kills):
    """Kill `kills` processes that save a run in `folder`. Returns how often a file was half written then.

    Raises AssertionError when a step that was saved is lost, a weight is not its own, or a temporary file stays."""
    moments = random.Random(0)
    with contextlib.redirect_stdout(None):  # each start prints where it resumes
        return sum(killed_once(folder, moments.uniform(0, 0.004)) for _ in range(kills))


def killed_once(folder, seconds):
    """Kill a process that saves, this many seconds after its first save. Returns whether a file was half written."""
    read, told = os.pipe()
    child = os.fork()
    if not child:
        save_until_killed(folder, told)
    os.close(told)
    with open(read, "rb") as pipe:
        saved = pipe.read(4)
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        saved = (saved + pipe.read())[-4:]
    half_written = any(folder.glob("*.tmp"))
    checkpoint = keeper(folder, width=50_000)
    checkpoint.run.close()
    assert not any(folder.glob("*.tmp")), "a temporary file is left"
    assert checkpoint.run.step >= struct.unpack("I", saved)[0], "a step that was saved is lost"
    assert all((parameter == checkpoint.run.step).all() for parameter in checkpoint.model.parameters())
    return half_written


def save_plainly(content, path):
    """What hearth did before: whole or not at all, too, but neither summed up nor read again."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def seconds(function, *arguments, **words):
    began = time.perf_counter()
    function(*arguments, **words)
    return time.perf_counter() - began


def main():
    parser = arguments(__doc__, n=7)
    parser.add_argument("--kills", type=int, default=200, help="processes that are killed, 200")
    options, report = parser.parse_args(), Report(__file__)
    report(hardware("torch"))
    with tempfile.TemporaryDirectory(dir=".") as folder:
        folder = Path(folder)
        half_written = killed_while_saving(folder / "run", options.kills)
        report(f"{options.kills} times killed, {half_written} of them with a file half written: nothing lost")
        model = ResNet34()
        optimizer = model.get_optimizer("Adam", 0.001, 0.0, 0.9)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        state, times = {"optimizer": optimizer.state_dict()}, ([], [])
        for _ in range(options.n + 1):
            times[0].append(seconds(model.save, folder / "last.pth", previous=folder / "previous.pth", **state))
            times[1].append(seconds(save_plainly, {"weights": model.state_dict(), **state}, folder / "plain.pth"))
        report(f"ResNet34 and Adam, {(folder / 'last.pth').stat().st_size / 1e6:.0f} MB")
        ours, plain = (side[1:] for side in times)  # without the first ones
        report(f"  hearth      {spread(ours, 's', 3)}")
        report(f"  torch.save  {spread(plain, 's', 3)}, ratio {ratios(ours, plain)}")
    report.save(options.results)


if __name__ == "__main__":
    main()
