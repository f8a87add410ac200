"""train --fold=all: a run per fold, resumed as a whole, predictions out of fold, and the mean of the models."""

import csv
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import FAST, draw_folder, main, server
from drawn import draw_shapes
from runs import differences, state

import config
import main as program
import models
from data import MaskFolder
from models.basic_module import BasicModule
from utils import UserError
from utils.run import members, resume
from utils.run.run import named_run
from utils.runs.table import find_runs
from utils.search import folds
from utils.train.loader import make_loader

# SIGTERM comes in the third step of all folds together, the first one of the second fold.
STOPS = """
import os, signal
from utils.run.run import Run
old, steps = Run.advance, iter([0, 0, signal.SIGTERM, 0])
Run.advance = lambda self: old(self) or os.kill(os.getpid(), next(steps))
"""


def table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which --fold=all was stopped in its second fold and resumed: (it, what was said each time)."""
    cwd = tmp_path_factory.mktemp("folds")
    draw_folder(cwd / "train", per_class=6), draw_folder(cwd / "held", per_class=2)
    options = ["--train-data-root=train", *FAST, "--max-epoch=1", "--folds=2"]
    files = cwd / "stdout", cwd / "stderr"
    assert 143 == server().run("train", *options, "--fold=all", cwd=cwd, first=STOPS, files=files)
    said = main("train", "--resume", cwd=cwd, check=0).stdout
    main("train", *options, "--fold=1", "--work-dir=alone", cwd=cwd, check=0)
    return cwd, files[0].read_text(), said


def test_it_is_resumed_as_a_whole_and_to_the_same_bits(trained):
    cwd, stopped, said = trained
    (folder,) = (cwd / "checkpoints").iterdir()
    assert "to resume all folds: python" in stopped and stopped.rstrip().endswith(f"--resume=checkpoints/{folder.name}")
    assert "fold 0 of 2 is finished: checkpoints/" in said and "fold 1 of 2, numbered from 0" in said
    assert "resuming checkpoints/" in said and "after 0 epochs and 1 batch" in said
    runs, (alone,) = members.fold_runs(folder), (cwd / "alone").iterdir()
    assert [*runs] == [0, 1] and not differences(state(runs[1]), state(alone))
    assert (folder / "lock").read_text() == "finished"
    assert [run.folder for run in find_runs(cwd / "checkpoints")] == [*runs.values()]
    for find in (named_run, resume.find_run):
        assert find(str(cwd / "checkpoints"), runs[1].name) == runs[1]
    given = config.load({"run": runs[0].name, "work_dir": str(cwd / "checkpoints")}, command="val")
    assert resume.find_best(given)[0] == runs[0] / "best.pth"


def test_every_picture_is_predicted_once_by_the_model_that_has_not_seen_it(trained):
    cwd, _, said = trained
    (folder,) = (cwd / "checkpoints").iterdir()
    rows = table(folder / "out_of_fold.csv")
    assert sorted(row["path"] for row in rows) == sorted(f"train/{path.name}" for path in (cwd / "train").iterdir())
    assert all(row["truth"] == row["path"][6:9] for row in rows)
    for row in rows:
        assert float(row["cat"]) + float(row["dog"]) == pytest.approx(1, abs=1e-6)
    score = torch.tensor([float(row[row["truth"]]) for row in rows]).log().mean().item()
    assert f"log_loss: {-score:.4g}\n" in said and "out of fold, 12 samples, each predicted by the model" in said


def test_the_newest_folds_are_tested_as_their_mean_and_calibrated(trained, unlabelled):
    cwd, _, _ = trained
    (folder,) = (cwd / "checkpoints").iterdir()
    found = {}
    for name, options in {"mean": [], "calibrated": ["--calibrate"]}.items():
        said = main("test", f"--test-data-root={unlabelled}", *options, cwd=cwd, check=0).stdout
        assert f"the probabilities of 2 models are averaged: checkpoints/{folder.name}\n" in said
        found[name] = torch.tensor([float(row["label"]) for row in table(cwd / "result.csv")])
    files = [unlabelled / f"{number}.jpg" for number in range(1, 13)]
    each = [models.load(run).predict_files(files) for run in members.fold_runs(folder).values()]
    each = [[one.score for row in rows for one in row.found if one.name == "dog"] for rows in each]
    assert torch.allclose(found["mean"], torch.tensor(each).mean(dim=0), atol=1e-5)
    assert not torch.allclose(*torch.tensor(each), atol=1e-4)
    temperature = float(said.split("temperature ")[1].split(",")[0])
    assert torch.allclose(found["calibrated"], (found["mean"].logit() / temperature).sigmoid(), atol=1e-3)


def test_folds_and_single_models_can_stand_in_one_list(trained):
    cwd, _, _ = trained
    (folder,) = (cwd / "checkpoints").iterdir()
    (alone,) = (cwd / "alone").iterdir()
    given = config.load({"load_model_path": f"{folder},{alone}/best.pth", "work_dir": "nowhere"}, command="test")
    name, several = members.each(given)
    runs = members.fold_runs(folder).values()
    assert name == given.load_model_path
    assert [one.load_model_path for one in several] == [*map(str, runs), f"{alone}/best.pth"]
    several = ",".join([folder.name] * 9)  # as text longer than a file's name may be
    calibrated = config.load(
        {"load_model_path": several, "work_dir": str(folder.parent), "calibrate": True}, None, "test"
    )
    with pytest.raises(UserError, match="--calibrate needs the out_of_fold.csv"):
        members.each(calibrated)
    by_name = config.load({"load_model_path": f"{folder.name},b.pth", "work_dir": str(folder.parent)}, command="test")
    assert len(members.each(by_name)[1]) == 3


def test_what_cannot_be_measured_or_averaged_is_one_line(trained, monkeypatch):
    cwd, _, _ = trained
    monkeypatch.chdir(cwd)
    (folder,) = (cwd / "checkpoints").iterdir()
    name = f"checkpoints/{folder.name}"

    def each(command, **options):
        members.each(config.load(options, command=command))

    line = f"export takes one model, and {name} are 2: --load-model-path={name}/SqueezeNet_.* names one"
    with pytest.raises(UserError, match=line):
        each("export")
    shutil.copy(folder / "out_of_fold.csv", cwd)  # it is not in the folder of what is named
    for one in ("a,b", "a"):
        with pytest.raises(UserError, match=f"give the folder of those folds, --load-model-path={one} is none"):
            each("test", load_model_path=one, calibrate=True)
    done = main("val", f"--load-model-path={name}", "--val-data-root=held", "--tta=flip", cwd=cwd, check=0)
    assert "tta: flip  (given)" in done.stdout and "None" not in done.stdout
    assert f"report: {name}/average_report" in done.stdout and "on 4 samples, DogCat of held:" in done.stdout
    shutil.copytree(folder, cwd / "incomplete").joinpath("out_of_fold.csv").unlink()
    with pytest.raises(UserError, match="incomplete is not complete, of 2 folds: `python main.py train --resume=inc"):
        each("test", load_model_path="incomplete")


def test_models_that_see_or_validate_on_other_pictures_are_not_averaged():
    sizes = {"a": 32, "b": "64x32"}
    one, other = (config.load({"load_model_path": name, "image_size": sizes[name]}) for name in sizes)
    with pytest.raises(UserError, match="a has image_size=32, b 64x32: pictures for models whose .* same proportions"):
        members.check_alike([one, other], config.load({}, command="test"))
    apart = [config.load({"load_model_path": "a", "folds": 5, "fold": fold}) for fold in (0, 1)]
    members.check_alike(apart, config.load({}, command="test"))
    members.check_alike(apart, config.load({"val_data_root": "new"}, command="val"))
    with pytest.raises(UserError, match=r"different parts of the data \(fold\), so each validates on what the other"):
        members.check_alike(apart, config.load({}, command="val"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 5, "fold": 5}, "--folds=5 --fold=5 names no fold: give --fold=0 to 4, or --fold=all"),
        ({"folds": 5}, "--folds=5 names no fold: give --fold=0 to 4, or --fold=all"),
        ({"folds": 1, "fold": 0}, "--folds cannot be 1: it takes a whole number of 2 or more"),
        ({"folds": 5, "fold": "some"}, "a whole number of 0 or more, or all"),
        ({"fold": 0}, "--fold=0 needs --folds, the number of parts"),
        ({"group": "x"}, "--group=x needs --folds, the number of parts"),
        ({"folds": 5, "fold": 0, "val_data_root": "x"}, "--val-data-root on other data: give one of them"),
        ({"folds": 5, "fold": "all", "processes": 2}, "--fold=all trains in one process: leave --gpus and --processes"),
    ],
)
def test_options_that_name_no_fold_are_one_line(options, message):
    with pytest.raises(UserError) as error:
        config.load(options, command="train")
    assert message in str(error.value)


def test_resume_means_the_newest_that_is_not_finished_a_run_or_folds(tmp_path):
    def runs(**words):
        for number, (name, word) in enumerate(words.items()):
            inner = tmp_path / name / ("a" if word == folds.UNFINISHED else "")
            inner.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / "lock").write_text(word)
            (inner / "last.pth").touch()
            os.utime(inner / "last.pth", (1e9 + number, 1e9 + number))

    def found(**options):
        return folds.found(config.load({"work_dir": str(tmp_path), **options}, command="train"))

    runs(one="unfinished", two=folds.UNFINISHED, three="finished", four="failed")
    assert found(resume="newest") == found(resume="auto") == tmp_path / "two"
    runs(two=folds.UNFINISHED, one="unfinished")
    assert found(resume="newest") is None and found(resume="newest", folds=2, fold="all") == tmp_path / "two"


def test_a_fold_is_its_oldest_run_not_one_that_was_trained_from_its_options(tmp_path):
    for name, fold, hour in (("a", 0, 12), ("b", 0, 10), ("c", 0, 13), ("d", 1, 14)):
        (tmp_path / name).mkdir()
        starts = [{"started": f"2026-01-01 {hour}:00:00"}, {"started": f"2026-01-02 {24 - hour}:00:00"}]
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump({"fold": fold, "run": starts}))
    assert members.fold_runs(tmp_path) == {0: tmp_path / "b", 1: tmp_path / "d"}
    (tmp_path / "b" / "config.yaml").write_text("fold: 0\n")
    assert members.fold_runs(tmp_path)[0] == tmp_path / "b", "it has lost its last lines"


def test_folds_are_no_mean_while_they_get_more_epochs_and_have_the_precision_of_the_first(tmp_path, capsys):
    trained, table = [], tmp_path / "out_of_fold.csv"

    def train(opt):
        trained.append((opt.fold, opt.precision, opt.max_epoch, table.exists()))
        run = tmp_path / f"run_{opt.fold}"
        run.mkdir(exist_ok=True)
        record = {"fold": opt.fold, "max_epoch": opt.max_epoch, "precision": "bf16"}  # what fold 0 has measured
        (run / "config.yaml").write_text(yaml.safe_dump(record))
        (run / "lock").write_text("finished")

    opt = config.load({"folds": 2, "fold": "all"}, command="train")
    for epochs in (10, 10, 20):
        opt.assign(max_epoch=epochs)
        for fold in range(2):
            folds.train_fold(SimpleNamespace(train=train), opt, tmp_path, fold)
        table.touch()
    given = config.load({"load_model_path": str(tmp_path)}, command="test")
    (tmp_path / "config.yaml").write_text("fold: all\n")
    assert len(members.named(given)[1]) == 2 and capsys.readouterr().out.count("its folds have") == 0
    (tmp_path / "run_1" / "config.yaml").write_text("fold: 1\nmax_epoch: 30\n")  # it was resumed alone
    members.named(given)
    said = f"note: {tmp_path}: its folds have --max-epoch=20 and 30: `python main.py train --resume={tmp_path} --max-"
    assert capsys.readouterr().out.startswith(f"{said}epoch=30` trains all alike\n")
    assert trained == [
        (0, "auto", 10, False),
        (1, "bf16", 10, False),
        (0, "bf16", 20, False),
        (1, "bf16", 20, False),
    ]


def test_pack_and_doctor_take_a_training_of_all_folds():
    assert config.load({"folds": 5, "fold": "all"}, command="pack").fold == 0


def test_a_training_that_cannot_begin_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    opt = config.load({"folds": 2, "fold": "all", "train_data_root": "none", "use_gpu": False}, command="train")
    with pytest.raises(UserError, match="--train-data-root: there is no folder none"):
        folds.train(program, opt)
    assert not list((tmp_path / "checkpoints").iterdir()) and "to resume" not in capsys.readouterr().out


class Ground(BasicModule):
    """Every pixel is of the first class."""

    task = "segmentation"

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return 0 * self.layer(x) + torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)


def test_every_picture_has_its_row_whatever_val_size_was(tmp_path, capsys):
    root, cpu = draw_shapes(tmp_path / "set", 6, ["ground", "disc", "bar"]), torch.device("cpu")
    model = Ground()
    model.info = {"classes": ["ground", "disc", "bar"]}

    def make_data(opt, mode, *_):
        return MaskFolder(root, mode, image_size=32, folds=3, fold=opt.fold, val_size=opt.val_size)

    fake = SimpleNamespace(
        load_trained=lambda given: (given, model, cpu),
        make_data=make_data,
        make_val_loader=lambda opt, model, data, device: make_loader(data, 1, 0, None, device),
    )
    opt = config.load({"folds": 3, "fold": "all", "val_size": 1}, command="train")
    folds.predict(fake, opt, tmp_path, [tmp_path] * 3)
    assert len({row["path"] for row in table(tmp_path / "out_of_fold.csv")}) == 6


@torch.no_grad()
def test_pictures_with_masks_get_their_iou(tmp_path):
    root = draw_shapes(tmp_path / "set", 3, ["ground", "disc", "bar"])
    data = MaskFolder(root, "val", image_size=32, folds=3, fold=1)
    meter, loader = data.meter(), make_loader(data, 1, 0, None, torch.device("cpu"))
    ((path, iou),) = folds.predicted(Ground(), loader, meter)
    assert path == data.samples[0].path and iou == pytest.approx(meter.summary()["iou"]) and 10 < iou < 40
