"""What a machine lacks is reported before the first step: room on the disk, permission. And two jobs at once."""

import contextlib
import copy
import multiprocessing
import shutil
import traceback
from types import SimpleNamespace

import pytest
import torch
from conftest import FAST, draw_folder, server
from disks import MS_RDONLY, mounted, needs_root

import models
from data.pictures.picture_set import open_images
from data.pictures.read import read_square
from utils import UserError
from utils.run import preflight
from utils.run.run import Run, new_folder


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory):
    needs_root(tmp_path_factory.mktemp("disk"))


def refused(folder, disk, *command):
    """Start main.py on a disk that is laid over folder/disk; the lines on stderr with which it refuses."""
    (folder / "disk").mkdir()
    files = ["stdout", "stderr"]
    assert (
        server().run(*command, "--work-dir=disk", cwd=folder, first=mounted(folder / "disk", *disk), files=files) == 2
    )
    return (folder / "stderr").read_text().splitlines()


def serve(functions, barrier, pipe):
    """Call these functions as the pipe says, each when the other process does, too."""
    for name, argument in iter(pipe.recv, None):
        barrier.wait()
        try:
            pipe.send(functions[name](argument))
        except BaseException:
            pipe.send(AssertionError(traceback.format_exc()))


@contextlib.contextmanager
def two_processes(**functions):
    """Two forked processes. Yields what calls one of the functions in both at once: call(name, argument) -> what they
    returned."""
    context = multiprocessing.get_context("fork")
    barrier, pipes = context.Barrier(2), [context.Pipe() for _ in range(2)]
    jobs = [context.Process(target=serve, args=(functions, barrier, there)) for _, there in pipes]

    def call(name, argument):
        for here, _ in pipes:
            here.send((name, argument))
        results = [here.recv() for here, _ in pipes]
        for result in results:
            if isinstance(result, AssertionError):
                raise result
        return results

    for job in jobs:
        job.start()
    try:
        yield call
    finally:
        for (here, _), job in zip(pipes, jobs, strict=True):
            here.send(None)
            job.join()


def test_a_folder_on_a_read_only_disk_is_reported_before_the_pictures_are_read(tmp_path, pictures):
    (line,) = refused(tmp_path, (1 << 20, MS_RDONLY), "train", f"--train-data-root={pictures}", *FAST)
    assert "disk cannot be written (Read-only file system)" in line and "--work-dir" in line
    assert not (tmp_path / "packs").exists()


def test_too_little_room_for_the_checkpoints_is_reported_before_the_first_step(tmp_path, pictures):
    (line,) = refused(tmp_path, (8 << 20,), "train", f"--train-data-root={pictures}", *FAST, "--pack=False")
    # 723,522 float32 weights with Adam's two numbers each, three times, and once without; 1 % for the rest of a file
    assert "8.4 MB free" in line and "need 29.2 MB" in line and "--work-dir" in line


@pytest.mark.parametrize("name, momentum, ema", [("AdamW", 0.9, 0.9), ("Adam", 0.9, 0), ("SGD", 0.9, 0), ("SGD", 0, 0)])
def test_the_room_is_what_the_checkpoints_will_take(tmp_path, monkeypatch, capsys, name, momentum, ema):
    model = models.SqueezeNet(num_classes=2)
    model.features[0].requires_grad_(False)  # the optimizer keeps nothing of what does not learn
    optimizer = model.get_optimizer(name, 1e-4, 0.0, momentum)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = {"optimizer": optimizer.state_dict()}
    if ema:
        state["step"] = {"ema": copy.deepcopy(model.state_dict())}
    run = tmp_path / "run"
    for file in ("last.pth", "previous.pth"):
        model.save(run / file, **state)
    for file in ("best.pth", "epoch_004.pth", "epoch_005.pth", "epoch_003_loss_1.pth", "epoch_005_loss_1.pth"):
        model.save(run / file)
    last, taken = (run / "last.pth").stat().st_size, sum(path.stat().st_size for path in run.iterdir())
    # A new run needs all this and a third last.pth for a moment; a resumed one has it, but for that.
    for resume, need in ((None, taken + last), (run, last)):
        for free, said in ((0.95, "error"), (1.05, "warning"), (1.9, "warning"), (2.1, "")):
            monkeypatch.setattr(shutil, "disk_usage", lambda _, room=free * need: SimpleNamespace(free=room))
            try:
                preflight.check_room(model, optimizer, tmp_path, resume, 5, ema, keep_last=2, keep_every=2, keep_from=3)
                assert capsys.readouterr().err.partition(":")[0] == said
            except UserError:
                assert said == "error"


def test_two_runs_and_two_packings_at_once_twenty_times(tmp_path, monkeypatch):
    monkeypatch.setattr("utils.run.run.GLANCES", 1)  # each takes 0.1 s, in vain while the other holds the lock
    sources = sorted(draw_folder(tmp_path / "train", per_class=4).iterdir())

    def begin(turn):
        while held:
            held.pop().close()
        folder = new_folder(tmp_path / "checkpoints", "Net")
        run = Run(folder)
        images, wrong = open_images(sources, read_square, (32, 32), "set", True, tmp_path / f"packs_{turn}")
        assert wrong == [None] * len(sources) and run.folder == folder
        run.close()
        return str(folder), type(images).__name__, images[list(range(len(sources)))].numpy().tobytes()

    def take(folder):
        try:
            held.append(Run(folder))  # till the next turn
            return True
        except UserError as error:
            assert "is being trained by another process" in str(error)
            return False

    folders, pixels, held = [], set(), []
    with two_processes(begin=begin, take=take) as call:
        for turn in range(20):
            for folder, kind, picked in call("begin", turn):
                assert kind == "PackedImages"
                folders.append(folder)
                pixels.add(picked)
            assert sorted(call("take", folder)) == [False, True]  # to resume a run is for one process
            assert not list((tmp_path / f"packs_{turn}").glob("*.tmp"))
    assert len(set(folders)) == 40 and len(pixels) == 1
