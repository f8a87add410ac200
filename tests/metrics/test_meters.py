"""The meters: what they count, that they wait on the device, and that several become one."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from matplotlib.figure import Figure
from runs import differences, measures, only_run, rows

import data
import main as program
from data.heart import PointMeter
from utils import UserError
from utils.metrics.class_meter import ClassMeter
from utils.metrics.iou_meter import IoUMeter
from utils.metrics.meters import ConfusionMeter, LossMeter, TrainMeters, plain, write_report


def test_the_confusion_matrix_of_the_book_is_84_percent():
    meter = ConfusionMeter(["dog", "cat"])
    for true, predicted, count in ((0, 0, 35), (0, 1, 15), (1, 0, 9), (1, 1, 91)):
        score = torch.nn.functional.one_hot(torch.full((count,), predicted), 2).bfloat16()  # any float type
        meter.add(score, torch.full((count,), true))
    assert meter.value().tolist() == [[35, 15], [9, 91]]
    assert meter.summary() == {"accuracy": 84.0}


def test_a_confusion_matrix_once_given_does_not_change():
    meter = ConfusionMeter("abc")
    meter.add(torch.eye(3), torch.arange(3))
    before = meter.value()
    meter.add(torch.eye(3), torch.arange(3))
    assert before.trace() == 3 and meter.value().trace() == 6
    meter.reset()
    assert meter.value().sum() == 0 and math.isnan(meter.summary()["accuracy"])


@pytest.mark.parametrize("classes", [3, 500])
def test_a_confusion_meter_counts_every_batch_and_lets_few_wait(classes):
    meter, expected = ConfusionMeter(range(classes)), np.zeros((classes, classes), dtype=np.int64)
    source = torch.Generator().manual_seed(0)
    for size in [*range(1, 131), 3000, 1, 7]:
        score, target = torch.rand(size, classes, generator=source), torch.randint(classes, (size,), generator=source)
        meter.add(score, target)
        np.add.at(expected, (target.numpy(), score.numpy().argmax(axis=1)), 1)
        assert len(meter.waiting) < 64 and sum(score.numel() for score, _ in meter.waiting) <= 2**20
        if size == 100:
            np.testing.assert_array_equal(meter.value(), expected)
    other = ConfusionMeter(range(classes))
    other.add(torch.eye(classes), torch.arange(classes))  # to be forgotten
    other.load_state_dict(meter.state_dict())
    np.testing.assert_array_equal(other.value(), expected)


def test_a_prediction_that_is_nan_is_never_right():
    for meter in (ConfusionMeter("ab"), ClassMeter("ab")):
        meter.add(torch.full((4, 2), math.nan), torch.tensor([0, 0, 0, 1]))
        assert meter.summary() == {"accuracy": 0.0}
    meter = ClassMeter("abcdef")
    meter.add(torch.full((1, 6), math.nan), torch.tensor([0]))
    assert meter.summary() == {"accuracy": 0.0, "top5": 0.0}


def test_the_loss_meter_is_mean_and_standard_deviation_of_what_was_added():
    values = torch.rand(300, generator=torch.Generator().manual_seed(0))
    meter = LossMeter()
    assert math.isnan(meter.value()[0]) and meter.summary() == {}
    for value in values:
        meter.add({"loss": value})
    np.testing.assert_allclose(meter.value(), [values.mean(), values.std()], rtol=1e-4)
    other = LossMeter()
    other.load_state_dict(meter.state_dict())
    for one in (meter, other):
        one.add({"loss": torch.tensor(5.0)})
    assert meter.value() == other.value() and len(meter.waiting.rows) == 0
    assert meter.summary() == {"loss": pytest.approx(meter.value()[0])}


def test_the_loss_meter_knows_the_components_and_ignores_what_is_not_finite():
    meter = LossMeter()
    meter.add({"box": torch.tensor(1.0), "loss_mask": torch.tensor(3.0)})
    meter.add({"box": torch.tensor(math.nan), "loss_mask": torch.tensor(1.0)})
    meter.add({"box": torch.tensor(2.0), "loss_mask": torch.tensor(math.inf)})
    meter.add({"box": torch.tensor(3.0), "loss_mask": torch.tensor(5.0)})
    meter.add({})
    assert meter.summary() == {"loss": 6.0, "loss_box": 2.0, "loss_mask": 4.0}
    other = LossMeter()
    other.load_state_dict(meter.state_dict())
    assert other.summary() == meter.summary()
    meter.reset()
    assert meter.summary() == {}


def test_the_loss_meter_weighs_batches_by_their_samples_and_takes_components_as_they_come():
    meter = LossMeter()
    meter.add({"loss": torch.tensor(2.0)}, samples=32)
    meter.add({"loss": torch.tensor(1.0)}, samples=1)
    assert meter.summary() == {"loss": pytest.approx(65 / 33)}
    meter.reset()
    meter.add({"loss": torch.tensor(1.0), "aux": torch.tensor(2.0)})
    assert meter.summary() == {"loss": 3.0, "loss_loss": 1.0, "loss_aux": 2.0}
    meter.add({"loss": torch.tensor(1.0)})
    assert meter.summary() == {"loss": 2.0, "loss_loss": 1.0, "loss_aux": 1.0}
    meter.reset()
    meter.add({"a": torch.tensor(math.nan), "b": torch.tensor(1.0)})
    assert list(meter.summary()) == ["loss", "loss_a", "loss_b"] and math.isnan(meter.summary()["loss"])


def test_the_loss_meter_keeps_no_graph_alive():
    meter, weight = LossMeter(), torch.ones(1, requires_grad=True)
    meter.add({"loss": (weight * 2).sum()})
    assert not meter.waiting.rows[0][1].requires_grad


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
    heart, random = data.Heart("", "val"), torch.Generator().manual_seed(0)
    batches = [(torch.rand(3, 1, generator=random), torch.randint(2, (3, 1), generator=random)) for _ in range(3)]
    whole, merged = fed(PointMeter(heart), batches), PointMeter(heart)
    merged.merge([fed(PointMeter(heart), some).state_dict() for some in (batches[:1], batches[1:])])
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


def readmes(name):
    """What the code of a README's own meter defines."""
    (code,) = re.findall(r"```python\n(from .dogcat import DogCat\n.*?)```", (ROOT / name).read_text(), re.DOTALL)
    made = {"__package__": "data", "__name__": "data.dogs"}
    exec(code, made)
    return made["Recall"], made["Dogs"], re.sub(" *#.*", "", code)


def test_the_readmes_meter_measures_a_run_and_selects_its_best_model(tmp_path, pictures, monkeypatch, capsys):
    _, dogs, code = readmes("README.md")
    assert readmes("README.zh.md")[2] == code
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "Dogs", dogs, raising=False)
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: None)
    fast = {"image_size": 32, "batch_size": 7, "num_workers": 0, "progress": False}
    program.train(dataset="Dogs", train_data_root=str(pictures), max_epoch=1, vis_port=1, **fast)
    run = only_run(tmp_path)
    (row,) = rows(run)
    recall, known = float(row["val_recall"]), torch.tensor(data.DogCat(pictures, "val").targets).sum().item()
    said = f"{round(recall * known / 100)} of {known} dogs"
    assert (run / "recall.txt").read_text() == said and 0 <= float(row["train_recall"]) <= 100
    assert measures(run) == pytest.approx({"recall": recall, "val_loss": float(row["val_loss"])})
    assert f"best val_recall {recall:.4g}" in capsys.readouterr().out
    program.evaluate()
    assert f"val_recall: {recall:.4g}\n" in (printed := capsys.readouterr().out) and f"\n{said}\n" in printed


def test_a_meter_may_leave_out_all_but_three_methods_and_one_of_these_is_a_line(tmp_path):
    meter, _, _ = readmes("README.md")
    del meter.value, meter.report
    meters, resumed = TrainMeters(meter()), TrainMeters(meter())
    meters.scores.add(torch.eye(2)[[1, 0, 1]], torch.tensor([1, 1, 0]))
    resumed.load_state_dict(meters.state_dict())  # its attributes
    assert resumed.summary() == plain(meters.scores) == {"recall": 50.0}
    write_report(meters.scores, {"val_loss": 0.25}, tmp_path)
    assert measures(tmp_path) == {"recall": 50.0, "val_loss": 0.25}
    with pytest.raises(UserError, match="^the data set's meter, Recall, needs a method state_dict for several proc"):
        TrainMeters(meter(), SimpleNamespace(size=2))
    del meter.summary
    with pytest.raises(UserError, match="^the data set's meter, Recall, needs a method summary$"):
        TrainMeters(meter())
