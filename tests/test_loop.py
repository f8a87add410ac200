"""What the one loop does whatever the job is: losses with components, bad losses, what is measured, kept and drawn."""

import csv
import inspect
import json
import math
import os
import shutil

import pytest
import torch
from conftest import FAST, NO_SERVER, draw, main
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import main as program
import models
from config import DefaultConfig
from data import DogCat
from models.basic_module import BasicModule
from utils.metrics.meters import LossMeter
from utils.run.checkpoint_file import read_checkpoint
from utils.train.loader import make_loader
from utils.train.step import TrainStep


class Sometimes(BasicModule):
    """A small model with BatchNorm that meets nan in some of its training steps."""

    bad_steps = ()
    head = "classifier"

    def __init__(self, num_classes=2):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.classifier = nn.Linear(3, num_classes)
        self.step, self.kept = 0, []

    def forward(self, x):
        return self.classifier(self.norm(x).square().mean(dim=(2, 3)))

    def objective(self, input, target):
        if self.training:
            self.kept.append(torch.cat([value.detach().float().flatten() for value in self.state_dict().values()]))
        bad = self.training and self.step in self.bad_steps
        score = self(input * float("nan") if bad else input)
        losses = {"loss_class": self.criterion(score, target)["loss"], "loss_size": score.square().mean()}
        if self.training:
            Sometimes.last, self.step = self, self.step + 1
        return score, losses


@pytest.fixture
def train(tmp_path, pictures, monkeypatch):
    """Train a Sometimes in this process; returns the run's folder."""

    def run(bad_steps=(), drawn=False, **options):
        monkeypatch.chdir(tmp_path)
        if not drawn:  # which would take longer than to train
            monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)
        monkeypatch.setattr(Sometimes, "bad_steps", bad_steps)
        monkeypatch.setattr(models, "Sometimes", Sometimes, raising=False)
        fast = {"image_size": 32, "batch_size": 7, "num_workers": 0, "vis_port": 1, "print_freq": 1, "lr": 0.1}
        program.train(model="Sometimes", train_data_root=str(pictures), **{**fast, "max_epoch": 2, **options})
        return max((tmp_path / "checkpoints").iterdir())

    return run


def test_a_loss_that_is_not_finite_is_reported_and_its_step_skipped(train, capsys):
    run = train(bad_steps=(1, 5, 6, 7))
    kept = Sometimes.last.kept
    same = [torch.equal(one, next) for one, next in zip(kept, kept[1:], strict=False)]
    assert [step for step, equal in enumerate(same) if equal] == [1, 5, 6]  # 7 is the last one
    assert read_checkpoint(run / "last.pth")["run"]["step"] == 8
    warned = [line for line in capsys.readouterr().err.splitlines() if "not finite" in line]
    assert len(warned) == 3, "once each, then at 2, 4, 8, ... in a row"
    assert warned[0] == "warning: step 2 is skipped, its loss is not finite: loss_class nan, loss_size nan"
    assert all(value.isfinite().all() for value in read_checkpoint(run / "last.pth")["weights"].values())
    assert warned[1].startswith("warning: step 6 ") and warned[2].endswith("loss_size nan (2 in a row)")
    with open(run / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(0 < float(row[name]) < 100 for row in rows for name in ("loss", "loss_class", "loss_size"))


def test_every_component_is_recorded_and_its_validation_too(train):
    run = train()
    with open(run / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for part in ("", "val_"):
            parts = float(row[f"{part}loss_class"]) + float(row[f"{part}loss_size"])
            assert float(row[f"{part}loss"]) == pytest.approx(parts, rel=1e-5)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    steps = {name: [e["x"] for e in events if e.get("name") == name] for name in ("loss", "loss_class", "val_loss")}
    assert steps == {"loss": [*range(1, 9)], "loss_class": [*range(1, 9)], "val_loss": [1, 2]}


OPTIONS = {
    "precision": "fp32",
    "accumulate": 2,
    "clip_grad": 0.5,
    "ema": 0.9,
    "max_bad_steps": 7,
    "on_bad": "rollback",
    "monitor": "loss",
}
OPTIONS |= {"keep_last": 1, "keep_every": 2, "keep_from": 2, "save_freq": 3, "scheduler": "cosine", "cycles": 2}
OPTIONS |= {"cycle_decay": 0.5, "warmup_epochs": 1.0, "weight_decay": 0.01, "momentum": 0.8, "seed": 5, "batch_size": 8}
OPTIONS |= {"debug_file": "touched"}


def test_every_part_gets_its_options_and_every_step_its_rate_and_validation_the_averaged_model(train, monkeypatch):
    built, rates, validated = {}, [], []

    def watched(part):
        def make(*arguments, **options):
            given = inspect.signature(part).bind(*arguments, **options).arguments
            built.setdefault(part.__name__, given)
            return part(*arguments, **options)

        make.__signature__ = inspect.signature(part)
        return make

    for name in ("Schedule", "TrainStep", "NonFiniteGuard", "Checkpoint", "run_controls", "make_loader"):
        monkeypatch.setattr(program, name, watched(getattr(program, name)))
    apply, val = TrainStep.apply, program.val
    monkeypatch.setattr(
        TrainStep, "apply", lambda self, *rest: rates.append(self.optimizer.param_groups[0]["lr"]) or apply(self, *rest)
    )
    monkeypatch.setattr(
        program, "val", lambda model, *rest, **more: validated.append(model) or val(model, *rest, **more)
    )
    run = train(**OPTIONS)
    values = {**DefaultConfig().values(), **OPTIONS, "max_epoch": 2, "lr": 0.1, "num_workers": 0}
    for name, given in built.items():
        read = values.keys() & given.keys() - {"dataset"}
        assert read and {option: given[option] for option in read} == {option: values[option] for option in read}, name
    assert {option for given in built.values() for option in given} >= OPTIONS.keys() - {"weight_decay", "momentum"}
    # Four steps of warm-up, and then down, up and down again.
    expected = [0.1 * (step + 1) / 4 for step in range(4)]
    expected += [0.05 * (1 + math.cos(3 * math.pi * step / 4)) * 0.5 ** (1.5 * step / 4) for step in range(4)]
    assert rates == pytest.approx(expected)
    groups = read_checkpoint(run / "last.pth")["optimizer"]["param_groups"]
    assert [group["weight_decay"] for group in groups] == [0.01, 0] and groups[0]["betas"] == (0.8, 0.999)
    averaged, own = read_checkpoint(run / "best.pth")["weights"], Sometimes.last.state_dict()
    assert len(validated) == 2 and validated[0] is validated[1] is not built["TrainStep"]["module"]
    assert not torch.equal(averaged["classifier.weight"], own["classifier.weight"])
    kept = read_checkpoint(run / "epoch_002.pth")["weights"]
    assert all(torch.equal(value, kept[name]) for name, value in validated[0].state_dict().items())


def test_the_seed_decides_about_the_initial_weights(train):
    begun = []
    for seed in (1, 2, 1):
        train(max_epoch=1, seed=seed)
        begun.append(Sometimes.last.kept[0])
    assert torch.equal(begun[0], begun[2]) and not torch.equal(begun[0], begun[1])


def test_the_books_rule_gets_the_mean_loss_of_every_epoch(train):
    with open(train(lr=3.0, lr_decay=0.5, max_epoch=6) / "results.csv", newline="") as file:
        rows = [(float(row["loss"]), float(row["lr"])) for row in csv.DictReader(file)]
    expected, lr = [3.0], 3.0
    for (before, _), (loss, _) in zip([(math.inf, 0.0), *rows], rows[:-1], strict=False):
        lr *= 0.5 if loss > before else 1.0
        expected.append(lr)
    assert [rate for _, rate in rows] == expected and 0.1 < lr < 3, "some epochs have a higher loss, not all"


def test_any_measure_can_say_what_is_best(train, capsys):
    run = train(monitor="val_loss")
    with open(run / "results.csv", newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file)]
    assert read_checkpoint(run / "best.pth")["metrics"]["val_loss"] == min(losses)
    assert f"best val_loss {min(losses):.4g}" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{}, {"monitor": "val_loss"}, {"monitor": "loss"}])
def test_the_curves_mark_the_epoch_whose_weights_are_best_pth(train, monkeypatch, options):
    titles = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: titles.append(self.get_suptitle()))
    run = train(drawn=True, max_epoch=3, **options)
    best, name = read_checkpoint(run / "best.pth")["metrics"], options.get("monitor", "val_accuracy")
    assert [title for title in titles if title][
        -1
    ] == f"{run.name}, best epoch {best['epoch']}: {name} {best[name]:.4g}"


def test_every_kth_epoch_is_kept_with_its_report(train):
    run = train(max_epoch=7, keep_every=2, keep_from=3, keep_last=1, drawn=True)
    kept = {path.name.split("_")[1]: path for path in run.glob("epoch_*_val_accuracy_*.pth")}
    assert sorted(kept) == ["004", "006"]
    assert [path.name for path in run.glob("epoch_???.pth")] == ["epoch_007.pth"]
    for number, path in kept.items():
        accuracy = read_checkpoint(path)["metrics"]["val_accuracy"]
        assert path.stem == f"epoch_{number}_val_accuracy_{accuracy:.4g}"
        assert {"confusion.png", "report.csv", "measures.csv"} <= {file.name for file in path.with_suffix("").iterdir()}


def test_predictions_are_drawn_for_every_kth_batch(train):
    run = train(draw_freq=1, batch_size=6, max_epoch=1)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    files = {event["name"]: event["file"] for event in events if event["kind"] == "image"}
    assert sorted(files) == ["val_0000_0", "val_0001_0"]  # twelve pictures, two batches
    assert all(Image.open(run / file).size[0] > 100 for file in files.values())
    program.evaluate(load_model_path=str(run / "best.pth"), draw_freq=2)
    assert [path.name for path in (run / "best_report").glob("val_*.png")] == ["val_0000_0.png"]


def test_val_writes_its_report_and_shows_where_the_model_looks(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path, dirs_exist_ok=True)
    (run,) = (tmp_path / "checkpoints").iterdir()
    said = main("val", "--cam=2", "--draw-freq=1", cwd=tmp_path, check=0, drawn=True).stdout
    assert f"report: {run.relative_to(tmp_path)}/best_report" in said
    written = {path.name for path in (run / "best_report").iterdir()}
    assert {"confusion.png", "report.csv", "measures.csv", "roc.png", "val_0000_0.png"} <= written
    assert {name for name in written if name.startswith("cam_")} == {"cam_000.png", "cam_001.png"}


def test_val_on_data_of_other_classes_is_refused(trained, tmp_path):
    for name in ("oak", "ash"):
        for number in range(3):
            (tmp_path / "trees" / name).mkdir(parents=True, exist_ok=True)
            draw(tmp_path / "trees" / name / f"{number}.jpg", "cat", number)
    options = [
        "--dataset=ImageFolder",
        f"--train-data-root={tmp_path / 'trees'}",
        f"--load-model-path={trained[1]}/best.pth",
    ]
    done = main("val", *options, cwd=tmp_path, check=2)
    assert "are ash, oak, but the model's are cat, dog: give the data it was trained on" in done.stderr


def test_val_weighs_classes_as_the_training_did_and_measures_the_data_it_is_given(tmp_path):
    for number in range(40):
        (tmp_path / "trees" / "oak").mkdir(parents=True, exist_ok=True)
        (tmp_path / "trees" / "ash").mkdir(parents=True, exist_ok=True)
        draw(tmp_path / "trees" / ("oak" if number % 4 else "ash") / f"{number}.jpg", "cat", number)
    shutil.copytree(tmp_path / "trees", tmp_path / "others")
    roots = [f"--train-data-root={tmp_path / 'trees'}", f"--val-data-root={tmp_path / 'others'}"]
    options = ["--dataset=ImageFolder", "--class-weights", "--max-epoch=1", *roots, *FAST]
    main("train", *options, cwd=tmp_path, check=0)
    (table,) = tmp_path.glob("checkpoints/*/results.csv")
    with open(table, newline="") as file:
        loss = float(next(csv.DictReader(file))["val_loss"])
    said = main("val", cwd=tmp_path, check=0).stdout
    assert f"val_loss: {loss:.4g}\n" in said and "on 40 samples, ImageFolder of" in said
    assert "on 12 samples, ImageFolder of" in main("val", roots[0], cwd=tmp_path, check=0).stdout


def test_batches_and_pictures_that_are_too_small_are_one_line(tmp_path, pictures):
    options = [f"--train-data-root={pictures}", "--image-size=32", NO_SERVER, "--num-workers=0"]
    done = main("train", "--model=ResNet34", "--batch-size=1", *options, cwd=tmp_path, check=2)
    assert "BatchNorm cannot learn from one value: a larger --batch-size or --image-size" in done.stderr
    done = main("train", "--model=alexnet", *options, cwd=tmp_path, check=2)
    assert "the model needs larger pictures: a larger --image-size" in done.stderr


def test_a_file_name_that_is_not_utf8_goes_through(tmp_path):
    folder = os.fsencode(tmp_path / "trees")
    for name in (b"oak", b"ash"):
        os.makedirs(os.path.join(folder, name))
        for number in range(4):
            draw(tmp_path / "new.jpg", "cat", number)
            os.rename(tmp_path / "new.jpg", os.path.join(folder, name, b"\xe9%d.jpg" % number))
    main(
        "train",
        "--dataset=ImageFolder",
        f"--train-data-root={tmp_path / 'trees'}",
        "--max-epoch=1",
        *FAST,
        cwd=tmp_path,
        check=0,
    )
    main("test", f"--test-data-root={tmp_path / 'trees' / 'oak'}", cwd=tmp_path, check=0)
    assert b"\n\xe90.jpg," in (tmp_path / "result.csv").read_bytes()


def test_the_validations_loss_does_not_depend_on_the_batch_size(pictures):
    torch.manual_seed(0)
    model, data = models.SqueezeNet(), DogCat(pictures, "val", image_size=32)
    for weights in (None, [1.0, 9.0]):
        model.set_criterion(weight=weights)
        losses = []
        for batch_size in (12, 11, 5, 1):
            meter = LossMeter()
            program.val(model, make_loader(data, batch_size, num_workers=0), loss_meter=meter)
            losses.append(meter.summary()["loss"])
        assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)
