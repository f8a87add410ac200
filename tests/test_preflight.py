"""What a machine lacks is told before the first step: disk room, permission, shared memory. And two jobs at once."""

import copy
import ctypes
import multiprocessing
import os
import shutil
import subprocess
import traceback
from types import SimpleNamespace

import pytest
import torch
from conftest import FAST, NO_SERVER, draw_folder, main

import models
from data.pack import open_rows
from data.pictures import squeezed
from models.checkpoint import read_checkpoint
from utils import UserError, preflight
from utils.run import Run

CLONE_NEWNS, MS_RDONLY, MS_REC_PRIVATE = 0x20000, 1, 0x4000 | 0x40000  # of sched.h and mount.h


def mount(folder, size, flags=0):
    """Lay an empty disk of `size` bytes over a folder, for this process and its children alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    disk = os.fsencode(folder), b"tmpfs", flags, f"size={size}".encode()
    failed = libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_REC_PRIVATE, None)
    if failed or libc.mount(b"tmpfs", *disk):
        raise OSError(ctypes.get_errno(), "no disk can be mounted here", str(folder))


@pytest.fixture(scope="module", autouse=True)
def needs_root(tmp_path_factory):
    try:
        subprocess.run(["true"], preexec_fn=lambda: mount(tmp_path_factory.mktemp("disk"), 4096), check=True)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("only root may mount a disk")


def together(*functions):
    """Call functions in as many forked processes, at once; returns what they returned, in order."""
    context = multiprocessing.get_context("fork")
    barrier, pipes = context.Barrier(len(functions)), [context.Pipe() for _ in functions]

    def work(function, pipe):
        barrier.wait()
        try:
            pipe.send(function())
        except BaseException:
            pipe.send(AssertionError(traceback.format_exc()))
        pipe.recv()  # what was locked stays so until the other is through, too

    jobs = [
        context.Process(target=work, args=job) for job in zip(functions, [there for _, there in pipes], strict=True)
    ]
    for job in jobs:
        job.start()
    results = [here.recv() for here, _ in pipes]
    for (here, _), job in zip(pipes, jobs, strict=True):
        here.send("done")
        job.join()
    for result in results:
        if isinstance(result, AssertionError):
            raise result
    return results


def test_small_shared_memory_means_fewer_workers_and_the_same_weights(tmp_path, pictures):
    """64 MB, as a Docker container has; the batches of 8 workers take 18 times 3.9 MB."""
    run = ["train", f"--train-data-root={pictures}", "--model=shufflenet_v2_x0_5", "--image-size=576", "--batch-size=3"]
    run += ["--val-size=3", "--max-epoch=1", "--precision=fp32", NO_SERVER]
    alone = main(*run, "--num-workers=0", "--work-dir=alone", cwd=tmp_path, check=0)
    assert "warning" not in alone.stderr
    few = main(
        *run, "--num-workers=8", "--work-dir=few", cwd=tmp_path, check=0, preexec_fn=lambda: mount("/dev/shm", 64 << 20)
    )
    (line,) = [line for line in few.stderr.splitlines() if line.startswith("warning")]
    assert "/dev/shm has 67.1 MB free" in line and "of 6 worker processes, not of 8" in line and "--shm-size" in line
    one, other = (read_checkpoint(next((tmp_path / name).glob("*/last.pth")))["weights"] for name in ("alone", "few"))
    assert all(torch.equal(one[name], other[name]) for name in one | other)


def test_a_folder_on_a_read_only_disk_is_told_before_the_pictures_are_read(tmp_path, pictures):
    (tmp_path / "disk").mkdir()
    run = ["train", f"--train-data-root={pictures}", *FAST, "--work-dir=disk"]
    done = main(*run, cwd=tmp_path, check=2, preexec_fn=lambda: mount(tmp_path / "disk", 1 << 20, MS_RDONLY))
    (line,) = done.stderr.splitlines()
    assert "disk cannot be written (Read-only file system)" in line and "--work-dir" in line
    assert not (tmp_path / "packs").exists()


def test_too_little_room_for_the_checkpoints_is_told_before_the_first_step(tmp_path, pictures):
    (tmp_path / "disk").mkdir()
    run = ["train", f"--train-data-root={pictures}", *FAST, "--work-dir=disk", "--pack=False"]
    done = main(*run, cwd=tmp_path, check=2, preexec_fn=lambda: mount(tmp_path / "disk", 8 << 20))
    (line,) = done.stderr.splitlines()
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
        state["average"] = copy.deepcopy(model.state_dict())
    run = tmp_path / "run"
    for file in ("last.pth", "previous.pth"):
        model.save(run / file, **state)
    for file in ("best.pth", "epoch_004.pth", "epoch_005.pth", "epoch_003_loss_1.pth", "epoch_005_loss_1.pth"):
        model.save(run / file)
    last, taken = (run / "last.pth").stat().st_size, sum(path.stat().st_size for path in run.iterdir())
    # A new run needs all this and a third last.pth for a moment; one that goes on has it, but for that.
    for folder, need in ((tmp_path, taken + last), (run, last)):
        for free, said in ((0.95, "error"), (1.05, "warning"), (1.9, "warning"), (2.1, "")):
            monkeypatch.setattr(shutil, "disk_usage", lambda _, room=free * need: SimpleNamespace(free=room))
            try:
                preflight.check_room(folder, model, optimizer, 5, ema, keep_last=2, keep_every=2, keep_from=3)
                assert capsys.readouterr().err.partition(":")[0] == said
            except UserError:
                assert said == "error"


def test_two_runs_and_two_packings_at_once_twenty_times(tmp_path):
    sources = sorted(draw_folder(tmp_path / "train", per_class=4).iterdir())

    def begin():
        folder = Run.new_folder(tmp_path / "checkpoints", "Net")
        run = Run(folder)
        rows, wrong = open_rows(sources, squeezed, 32, "set", True, tmp_path / f"packs_{turn}")
        assert wrong == [None] * len(sources) and run.folder == folder
        return str(folder), type(rows).__name__, rows[list(range(len(sources)))].numpy().tobytes()

    def take():
        try:
            held.append(Run(folder))  # till the process ends
            return True
        except UserError as error:
            assert "is being trained by another process" in str(error)
            return False

    folders, pixels, held = [], set(), []
    for turn in range(20):
        for folder, kind, picked in together(begin, begin):
            assert kind == "Pack"
            folders.append(folder)
            pixels.add(picked)
        assert sorted(together(take, take)) == [False, True]  # to go on with one run is for one process
        assert not list((tmp_path / f"packs_{turn}").glob("*.tmp"))
    assert len(set(folders)) == 40 and len(pixels) == 1
