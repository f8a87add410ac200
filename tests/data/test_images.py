"""The images of a data set in memory, on a device, and decoded in threads."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
from coco_files import content, write
from conftest import draw_folder

from data import CIFAR10, CocoMask, DogCat
from data.pictures import images, picture_set


def test_packed_pictures_can_be_cached_and_outlive_their_pack(tmp_path, capsys):
    draw_folder(tmp_path / "set", per_class=10)
    options = {"image_size": 56, "val_data_root": [tmp_path / "set"]}
    expected = DogCat(tmp_path / "set", "train", **options).images[list(range(20))]
    data = DogCat(tmp_path / "set", "train", pack=True, pack_dir=tmp_path / "packs", **options)
    data.cache_on(torch.device("cpu"), "device")
    assert "kept in the memory of cpu: 20 pictures of 64 x 64, 0.2 MB" in capsys.readouterr().out
    shutil.rmtree(tmp_path)
    assert torch.equal(data.images[list(range(20))], expected) and data.cached_on_device and data.no_workers_needed


def test_auto_caches_what_takes_a_fifth_of_a_gpus_free_memory_at_most(monkeypatch):
    zeros, gpu = images.ImagesInMemory(torch.zeros(4, 10, 10, 1, dtype=torch.uint8)), torch.device("cuda:0")
    for free, expected in ((2000, True), (1999, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        assert images.fits_on_device(zeros, gpu, "auto") == expected
        assert images.fits_on_device(zeros, gpu, "device") and not images.fits_on_device(zeros, gpu, "none")
    assert not images.fits_on_device(zeros, torch.device("cpu"), "auto")


def test_masks_are_drawn_by_workers_unless_it_is_asked_otherwise(tmp_path, monkeypatch):
    file, asked = write(tmp_path, content(4)), []
    monkeypatch.setattr(picture_set, "fits_on_device", lambda images, device, cache: asked.append(cache))
    for mode in ("train", "test"):
        for cache in ("auto", "device"):
            CocoMask(file, mode, image_size=48).cache_on(torch.device("cpu"), cache)
    assert asked == ["none", "device", "auto", "device"]


def test_pixels_without_files_are_in_memory_from_the_start(tmp_path):
    class Squares(CIFAR10):
        classes = ("a", "b")

        def __init__(self):
            squares = torch.arange(24, dtype=torch.uint8).view(2, 2, 2, 3)
            super(CIFAR10, self).__init__(["x", "y"], [0, 1], "val", pixels=squares)

    data = Squares()
    assert data.no_workers_needed and not data.cached_on_device
    assert data[1][0].tolist() == data.images.pixels[1].permute(2, 0, 1).tolist()


def test_only_a_few_results_are_computed_ahead():
    asked = []
    results = images.in_threads(lambda number: -number, (asked.append(n) or n for n in range(10_000)))
    assert [next(results) for _ in range(3)] == [0, -1, -2] and len(asked) < 100
    results.close()
    assert len(asked) < 100


def test_what_has_not_begun_when_the_results_are_closed_never_begins(monkeypatch):
    started, canceled, threads = [], threading.Event(), min(16, os.cpu_count() or 1)

    class Pool(ThreadPoolExecutor):
        def shutdown(self, **options):
            super().shutdown(wait=False, **options)
            canceled.set()
            super().shutdown()

    def work(number):
        started.append(number)
        assert number == 0 or canceled.wait(60)

    monkeypatch.setattr(images, "ThreadPoolExecutor", Pool)
    results = images.in_threads(work, range(10_000))
    next(results)
    results.close()
    assert len(started) <= threads + 1
