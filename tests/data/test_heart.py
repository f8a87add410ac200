"""The heart: its points, and the perceptron that learns them through the real command line."""

import csv
import math
import random
from types import SimpleNamespace

import pytest
import torch
from conftest import NO_SERVER, main
from PIL import Image
from runs import measures

import data
import models
from utils import UserError
from utils.metrics import plots
from utils.watch import History


@pytest.fixture(scope="module")
def heart(tmp_path_factory):
    """A short run: (folder, run folder)."""
    cwd = tmp_path_factory.mktemp("heart")
    options = ["--max-epoch=2", "--batch-size=200", "--lr=0.2", "--scheduler=linear", "--lr-final=0.1"]
    options += ["--keep-every=2", NO_SERVER]
    main("train", "--config=Heart", *options, cwd=cwd, check=0, drawn=True)
    (run,) = (cwd / "checkpoints").iterdir()
    return cwd, run


def test_the_points():
    points = data.Heart("", "test")
    assert len(points) == 100_000
    point, id = points[17]
    assert point.shape == (1, 2) and point.dtype == torch.float32 and id == 17
    train, val = data.Heart("", "train"), data.Heart("", "val")
    point, label = train[0]
    assert point.shape == (1, 2) and label.shape == (1,) and label.dtype == torch.float32
    assert (len(train), len(val)) == (70_000, 30_000)
    assert train.labels.sum() + val.labels.sum() == 22_702
    both = torch.cat([train.points, val.points]).squeeze(1).tolist()
    assert sorted(both) == sorted(points.points.squeeze(1).tolist()), "one part of each, no point in both"

    random.seed(123)
    x, y = (random.random() - 0.5) * 4, (random.random() - 0.5) * 4
    assert torch.equal(points.points[0, 0], torch.tensor([x, y]))
    assert points.points.min() >= -2 and points.points.max() < 2


def test_points_are_gathered_in_one_go():
    for mode in ("train", "test"):
        heart = data.Heart("", mode)
        point, label = heart.__getitems__([5, 3])
        items = [heart[5], heart[3]]
        assert torch.equal(point, torch.stack([point for point, _ in items])) and heart.no_workers_needed
        assert label.tolist() == [label if mode == "test" else label.tolist() for _, label in items]


def test_the_perceptron():
    model = models.MLP()
    assert sum(p.numel() for p in model.parameters()) == 2881
    score, losses = model.objective(torch.zeros(5, 1, 2), torch.ones(5, 1))
    assert score.shape == (5, 1) and losses["loss"].item() == pytest.approx(-math.log(score[0, 0].item()), rel=1e-5)
    with pytest.raises(UserError, match="MLP tells two classes apart, not 3"):
        models.MLP(3)


def test_the_heart_is_learned(heart):
    cwd, run = heart
    with open(run / "results.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["val_accuracy"]) > 98.5
    assert float(last["val_loss"]) < 0.05
    assert "truth.png" in (run / "index.html").read_text()
    (kept,) = run.glob("epoch_002_val_accuracy_*.pth")
    for folder in (run, kept.with_suffix("")):
        pictures = {name: Image.open(folder / f"{name}.png") for name in ("truth", "labels")}
        red = {name: reds(picture) for name, picture in pictures.items()}
        assert red["truth"] > 5000 and abs(red["labels"] / red["truth"] - 1) < 0.1


def reds(picture):
    r, g, b = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8).view(-1, 3).int().T
    return ((r > 180) & (g < 120) & (b < 80)).sum().item()


def test_test_writes_the_labelled_points(heart):
    cwd, _ = heart
    main("test", cwd=cwd, check=0)
    with open(cwd / "result.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["x", "y", "probability", "label"] and len(rows) == 100_000
    wrong = 0
    for row in rows:
        x, y = float(row["x"]), float(row["y"])
        assert (row["label"] == "1") == (float(row["probability"]) > 0.5)
        wrong += (row["label"] == "1") != ((x * x + y * y - 1) ** 3 - x * x * y**3 < 0)
    assert wrong < 1500


def test_val_reports_the_same_again(heart):
    cwd, run = heart
    said = main("val", cwd=cwd, check=0, drawn=True).stdout
    with open(run / "results.csv", newline="") as file:
        best = max(csv.DictReader(file), key=lambda row: float(row["val_accuracy"]))
    assert (
        f"val_accuracy: {float(best['val_accuracy']):.4g}" in said
        and f"val_loss: {float(best['val_loss']):.4g}" in said
    )
    assert (run / "best_report" / "labels.png").is_file()
    assert measures(run / "best_report") == pytest.approx(
        {"accuracy": float(best["val_accuracy"]), "val_loss": float(best["val_loss"])}
    )


def test_all_points_with_their_labels_are_drawn_once_a_training_begins(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "scatter", lambda points, inside, *rest: drawn.append((points, inside, *rest)))
    heart, steps = data.Heart("", "train"), SimpleNamespace(batch=((), ()))
    run, loader = SimpleNamespace(folder=tmp_path, step=0), SimpleNamespace(dataset=heart)
    History(run, SimpleNamespace(max_epoch=1), models.MLP(), loader, steps).on_train_begin()
    ((points, inside, classes, path, title),) = drawn
    assert len(points) == 100_000 and inside.sum() == 22_702 and classes == ("outside", "inside")
    assert path == tmp_path / "truth.png" and title == "all points, true labels"
    assert inside[:9].tolist() == [data.heart.inside(*point) for point in points[:9].tolist()]


def test_models_of_another_task_are_refused(tmp_path):
    done = main("train", "--dataset=Heart", "--model=SqueezeNet", NO_SERVER, cwd=tmp_path, check=2)
    assert done.stderr == (
        "main.py: --model=SqueezeNet is for classification, --dataset=Heart for points: change one\n"
    )
    done = main("train", "--config=Heart", "--criterion=cross_entropy", NO_SERVER, cwd=tmp_path, check=2)
    assert "cross_entropy" in done.stderr and len(done.stderr.splitlines()) <= 2, done.stderr
    done = main("train", "--config=Heart", "--monitor=val_iou", NO_SERVER, cwd=tmp_path, check=2)
    assert "--monitor=val_iou: this data set and model give val_accuracy, val_loss, loss" in done.stderr
    assert not list((tmp_path / "checkpoints").glob("*/best.pth"))
