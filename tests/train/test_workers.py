"""Worker processes: no more than have room for their batches in shared memory."""

import math
import shutil
from types import SimpleNamespace

import torch
from conftest import NO_SERVER, server
from disks import mounted, needs_root
from runs import only_run

from data import DogCat
from utils.files import megabytes
from utils.run.checkpoint_file import read_checkpoint
from utils.train.workers import PREFETCHED, SHM_SHARE, fitting_workers, shared_bytes


def test_small_shared_memory_means_fewer_workers_and_the_same_weights(tmp_path, pictures):
    """A Docker container has 64 MB; here are as many as the batches of 6 workers take."""
    needs_root(tmp_path)
    side, size = 128, 3
    dataset = DogCat(pictures, "train", image_size=side)
    batch = size * shared_bytes(dataset.collate([dataset[0]]))
    room = math.ceil((2 + 6.5 * PREFETCHED) * batch / SHM_SHARE / 4096) * 4096
    run = ["train", f"--train-data-root={pictures}", "--model=SqueezeNet", f"--image-size={side}"]
    run += [f"--batch-size={size}", "--val-size=3", "--max-epoch=1", "--precision=fp32", NO_SERVER]
    output = {}
    for name, workers, first in (("alone", 0, ""), ("few", 8, mounted("/dev/shm", room))):
        (tmp_path / name).mkdir()
        code = server().run(*run, f"--num-workers={workers}", cwd=tmp_path / name, first=first)
        output[name] = (tmp_path / name / "output").read_text()
        assert code == 0, output[name]
    lines = {name: [line for line in text.splitlines() if line.startswith("warning")] for name, text in output.items()}
    alone, (line,) = ([line for line in lines[name] if "visdom" not in line] for name in ("alone", "few"))
    assert alone == []
    assert f"/dev/shm has {megabytes(room)} free" in line and "--shm-size" in line
    assert "of 6 worker processes, not of 8" in line
    one, other = (read_checkpoint(only_run(tmp_path / name) / "last.pth")["weights"] for name in ("alone", "few"))
    assert all(torch.equal(one[name], other[name]) for name in one | other)


def test_as_many_workers_as_have_room_and_no_more_than_asked_for(pictures, monkeypatch):
    dataset = DogCat(pictures, "train", image_size=32)
    batch = 3 * shared_bytes(dataset.collate([dataset[0]]))
    room = math.ceil((2 + 6.5 * PREFETCHED) * batch / SHM_SHARE)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=room))
    assert [fitting_workers(dataset, 3, wanted) for wanted in (8, 4, 0)] == [6, 4, 0]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # each has half of it: 7.5 batches
    assert fitting_workers(dataset, 3, 8) == 2
