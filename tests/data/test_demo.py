"""The embedded default: pictures that anybody can draw again, too hard for a linear classifier, easy for the preset."""

import csv
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NO_SERVER, main
from PIL import Image

from data import Demo
from data.pictures import cartoons
from data.pictures.cartoons import draw_data_set, draw_picture


def test_the_same_seed_draws_the_same_picture_and_another_one_another():
    pixels = [np.asarray(draw_picture(kind, seed)) for kind, seed in (("cat", 1), ("cat", 1), ("cat", 2), ("dog", 1))]
    assert np.array_equal(pixels[0], pixels[1])
    assert all(pixels[0].shape != other.shape or not np.array_equal(pixels[0], other) for other in pixels[2:])


def test_pictures_are_named_as_kaggles_and_drawn_once(tmp_path):
    draw_data_set(tmp_path / "demo", train_per_class=4, test=3)
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.jpg"))
    train = [f"demo/train/{kind}.{number}.jpg" for kind in ("cat", "dog") for number in range(4)]
    assert names == sorted(["demo/test1/1.jpg", "demo/test1/2.jpg", "demo/test1/3.jpg", *train])
    sizes = {Image.open(tmp_path / name).size for name in names}
    assert len(sizes) > 5 and all(max(size) <= 300 for size in sizes)
    (tmp_path / "demo" / "train" / "cat.0.jpg").write_bytes(b"touched")
    data = Demo([tmp_path / "demo" / "train"], "train", image_size=32)  # finds the folder, and draws nothing
    assert len(data) + len(data.broken) == 6 and len(data.broken) <= 1
    assert (tmp_path / "demo" / "train" / "cat.0.jpg").read_bytes() == b"touched"


def test_two_that_draw_at_once_end_with_one_whole_set(tmp_path):
    processes = multiprocessing.get_context("fork")
    both_draw = processes.Barrier(2)

    def first_picture_together(kind, seed):
        if (kind, seed) == ("cat", 0):
            both_draw.wait(60)
        return draw_picture(kind, seed)

    def run():
        cartoons.draw_picture = first_picture_together
        draw_data_set(tmp_path / "demo", train_per_class=30, test=5)

    both = [processes.Process(target=run) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    assert len(list(tmp_path.rglob("*.jpg"))) == 65


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A third of Demo's pictures."""
    folder = tmp_path_factory.mktemp("drawn") / "demo"
    draw_data_set(folder, train_per_class=500, test=1)
    return folder / "train"


@pytest.mark.slow
def test_a_linear_classifier_on_32x32_pixels_stays_under_75_percent(drawn):
    def pixels(numbers):
        pictures = [Image.open(drawn / f"{kind}.{number}.jpg") for number in numbers for kind in ("cat", "dog")]
        squashed = [picture.resize((32, 32), Image.Resampling.BILINEAR) for picture in pictures]
        return torch.tensor(np.stack([np.asarray(image) for image in squashed])).flatten(1).double() / 255

    train, test = pixels(range(400)), pixels(range(400, 500))
    mean, std = train.mean(0), train.std(0)
    train, test = (train - mean) / std, (test - mean) / std
    target = torch.arange(len(train)) % 2 * 2.0 - 1  # -1 cat, 1 dog
    accuracies = []
    for ridge in (1e2, 1e3, 1e4, 1e5, 1e6):  # ridge regression, a linear classifier with an exact solution
        dual = torch.linalg.solve(train @ train.T + ridge * torch.eye(len(train)).double(), target.double())
        weight = train.T @ dual
        accuracies.append(((test @ weight > 0) == (torch.arange(len(test)) % 2 == 1)).double().mean().item())
    assert 0.5 < max(accuracies) < 0.75, accuracies


@pytest.mark.slow
def test_the_preset_learns_them(drawn, tmp_path):
    """With a third of its pictures, and smaller: more than any linear classifier, if less than the 99 % with all."""
    root = f"--train-data-root={drawn}"
    main("train", "--config=Demo", root, "--val-size=150", "--image-size=48", NO_SERVER, cwd=tmp_path, check=0)
    (results,) = Path(tmp_path).glob("checkpoints/*/results.csv")
    with open(results, newline="") as file:
        assert max(float(row["val_accuracy"]) for row in csv.DictReader(file)) >= 80
