"""The mean of several models' probabilities, and of several views of a picture."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import config
from models.basic_module import BasicModule
from models.ensemble import Ensemble, average
from utils import UserError
from utils.search import calibration


class Linear(BasicModule):
    """Scores that depend on where in the picture something is: of classes, or of each pixel."""

    def __init__(self, seed, task="classification", classes=("a", "b", "c")):
        super().__init__()
        torch.manual_seed(seed)
        self.task, self.info = task, {"classes": list(classes)}
        flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, len(classes)))
        self.layer = flat if task == "classification" else nn.Conv2d(3, len(classes), 3, padding=1)

    def forward(self, x):
        return self.layer(x)


@pytest.fixture
def input():
    return torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_probabilities_are_averaged_and_the_loss_is_theirs(task, input):
    members = [Linear(seed, task) for seed in range(3)]
    model = Ensemble(members).eval()
    expected = sum(member(input).softmax(dim=1) for member in members) / 3
    assert torch.allclose(model.predict(input), expected, atol=1e-6)
    target = expected.argmin(dim=1)
    score, losses = model.objective(input, target)
    assert torch.allclose(model.decode(score), expected, atol=1e-6)
    assert sum(losses.values()).item() == pytest.approx(F.nll_loss(expected.log(), target).item(), rel=1e-5)
    assert model.info is members[0].info and model.task == task


class Everywhere(Linear):
    """Scores that depend on the pictures' size."""

    def __init__(self, seed, task="classification"):
        super().__init__(seed, task)
        if task == "classification":
            self.layer = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), self.last(seed))

    def last(self, seed):
        return nn.Sequential(nn.Flatten(), nn.Linear(8, 3))


def test_models_of_one_size_get_inputs_as_they_come(capsys):
    """Of a data set that does not read --image-size."""
    given, files = config.load({}, command="test"), ("a.pth", "b.pth")
    several = [config.load({"load_model_path": one}, command="test") for one in files]
    long = [Path("x" * 200, "best.pth")] * 3  # as text longer than a file's name may be
    _, model, _ = average(given, ",".join(map(str, long)), several, lambda one: (one, Linear(0), torch.device("cpu")))
    assert model.sizes == []
    vector = nn.Sequential(nn.Flatten(), nn.Linear(20, 3))
    models = [Linear(0), Linear(1)]
    for one in models:
        one.layer = vector
    points = torch.randn(2, 20)
    assert torch.allclose(Ensemble(models, sizes=[(4, 4), (8, 8)])(points), vector(points).log_softmax(1), atol=1e-6)


@pytest.mark.parametrize("tta", [None, "flip"])
@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_each_member_sees_pictures_in_its_own_size(task, tta, input):
    def size(images, side):
        return F.interpolate(images, (side, side), mode="bilinear", antialias=True) if images.ndim == 4 else images

    members = [Everywhere(seed, task).eval() for seed in (0, 1)]
    expected = 0
    for member, side in zip(members, (16, 10), strict=True):
        expected = expected + size(member.predict(size(input, side)), 16)
        if tta:
            mirrored = member.predict(size(input, side).flip(3))
            expected = expected + size(mirrored.flip(3) if mirrored.ndim == 4 else mirrored, 16)
    model = Ensemble(members, tta, sizes=[(16, 16), (10, 10)]).eval()
    assert torch.allclose(model.predict(input), expected / (4 if tta else 2), atol=1e-6)
    alike = Ensemble(members, tta, sizes=[(16, 16), (16, 16)]).predict(input)
    assert not torch.allclose(model.predict(input), alike, atol=1e-4)
    assert torch.equal(alike, Ensemble(members, tta).predict(input))


def test_models_of_several_sizes_read_pictures_in_the_largest(tmp_path, capsys):
    given = config.load({}, command="test")
    sizes = {"a.pth": 32, "b.pth": 64, "c.pth": 48}
    several = [config.load({"load_model_path": one, "image_size": sizes[one]}, command="test") for one in sizes]
    opt, model, _ = average(given, ",".join(sizes), several, lambda one: (one, Linear(0), torch.device("cpu")))
    assert opt.image_size == 64 and model.sizes == [(32, 32), (64, 64), (48, 48)]
    assert "note: pictures are read with --image-size=64, and resized for the models of" in capsys.readouterr().out


def test_each_member_computes_in_its_own_precision(input):
    members = [Linear(0), Linear(1)]
    members[1].precision = "bf16"
    alone = []
    for member in members:
        with member.autocast():
            alone.append(member.predict(input))
    for first in (0, 1):
        model = Ensemble([members[first], members[1 - first]])
        with model.autocast():
            assert torch.allclose(model(input).exp(), sum(alone) / 2, atol=1e-6)
    assert not torch.allclose(members[1].predict(input), alone[1], atol=1e-5)


def test_views_are_mirrored_and_masks_mirrored_back(input):
    member = Linear(0)
    flip = (member(input).softmax(1) + member(input.flip(3)).softmax(1)) / 2
    assert torch.allclose(Ensemble([member], "flip").predict(input), flip, atol=1e-6)
    middle = F.interpolate(input[:, :, 1:15, 1:15], (16, 16), mode="bilinear")
    multi = (flip + (member(middle).softmax(1) + member(middle.flip(3)).softmax(1)) / 2) / 2
    assert torch.allclose(Ensemble([member], "multi").predict(input), multi, atol=1e-6)
    masks = Linear(1, "segmentation")
    back = masks(input.flip(3)).softmax(1).flip(3)
    assert torch.allclose(Ensemble([masks], "flip").predict(input), (masks(input).softmax(1) + back) / 2, atol=1e-6)


def test_a_temperature_divides_the_logarithms(input):
    member = Linear(0)
    expected = (member(input).log_softmax(1) / 2.5).softmax(1)
    assert torch.allclose(Ensemble([member], temperature=2.5).predict(input), expected, atol=1e-6)


def test_a_mean_that_is_made_less_certain_is_noted(tmp_path, capsys):
    certain = [["x.jpg", 0, "abc"[number % 2], 0.98, 0.01, 0.01] for number in range(20)]  # right in half of them
    calibration.write(tmp_path, list("abc"), certain)
    given = config.load({"calibrate": True}, command="test")
    members = [config.load({"load_model_path": name}, command="test") for name in ("one.pth", "two.pth")]
    opt, model, _ = average(given, str(tmp_path), members, lambda one: (one, Linear(0), torch.device("cpu")))
    assert model.temperature > 2 and opt.calibrate and opt.load_model_path == str(tmp_path)
    said = capsys.readouterr().out
    assert f"note: a mean is less certain than its models already: --calibrate, by {model.temperature:.4g}, may" in said
    assert f"the probabilities of 2 models are averaged: {tmp_path}\n" in said
    assert [*model.info["members"]] == ["one.pth", "two.pth"] and model.info["classes"] == ["a", "b", "c"]


def test_what_cannot_be_averaged_is_one_line():
    detector = Linear(0, "detection")
    for members, tta, message in [
        (
            [Linear(0), Linear(1, classes="acb")],
            None,
            "n: a, b, c) and Linear (classification: a, c, b) cannot be averaged",
        ),
        (
            [Linear(0), Linear(1, "segmentation")],
            None,
            "(classification: a, b, c) and Linear (segmentation: a, b, c)",
        ),
        (
            [detector, detector],
            None,
            "an average of several models is for classification and segmentation, and Linear is for detection",
        ),
        ([detector], "flip", "--tta=flip is for classification and segmentation, and Linear is for detection"),
        ([Linear(0, "segmentation")], "multi", "--tta=multi is for classification, and Linear is for segmentation"),
    ]:
        with pytest.raises(UserError) as error:
            Ensemble(members, tta)
        assert message in str(error.value)
