"""`doctor` on models and checkpoints that are broken in one way each: the right line, and no other."""

import copy

import pytest
import torch
from patients import (
    Blind,
    CutOff,
    Dead,
    Deep,
    Double,
    Elsewhere,
    Failing,
    FailsLater,
    HoldsFrozen,
    InAList,
    LacksHead,
    Large,
    LateLarge,
    Log,
    Net,
    NoBuffer,
    NormOfOne,
    ParameterInADict,
    Pictures,
    Probable,
    Root,
    Saturated,
    Unused,
    assert_only,
    case,
    unsound,
)

from data.broken import refuse_broken
from utils.doctor import command, layers, machine

MODELS = {
    InAList: ("registered", "wrong", "layers in a plain list or dict, more:"),
    ParameterInADict: ("registered", "wrong", "layers in a plain list or dict, scale:"),
    NoBuffer: ("registered", "look", "tensors that are no buffers, mean: to() and checkpoints"),
    Double: ("device and type", "wrong", "not float32, scale (float64)"),
    Elsewhere: ("device and type", "wrong", "not on cpu, mean (meta)"),
    HoldsFrozen: ("optimizer", "wrong", "it has frozen parameters, conv.bias"),
    LacksHead: ("optimizer", "wrong", "it lacks classifier.weight, classifier.bias"),
    Unused: ("gradients reach", "wrong", "not forgotten.weight, forgotten.bias"),
    CutOff: ("gradients reach", "wrong", "not conv.weight, conv.bias, norm.weight and 3 more"),
    Probable: ("output", "wrong", "probabilities go into cross_entropy"),
    Failing: ("a step", "wrong", "it fails, RuntimeError: mat1 and mat2 shapes cannot be multiplied (8x4 and 8x2)"),
    FailsLater: ("some steps", "wrong", "it fails, RuntimeError: no such luck"),
    Large: ("activations", "wrong", "they explode, for the first time in conv2 "),
    Log: ("activations", "wrong", "nan or inf, for the first time in conv2 (Conv2d)"),
    Root: ("gradients", "wrong", "nan or inf, on the way back for the first time in relu: a root, log"),
    Deep: ("gradients", "wrong", "they vanish: "),
    Dead: ("dead ReLUs", "wrong", "never above 0: relu2 (100 % of its units)"),
    Saturated: ("saturation", "wrong", "at the ends of its range: relu ("),
    LateLarge: ("loss at the start", "look", "where a model that knows nothing has ln 2 = 0.6931"),
    Blind: ("a batch by heart", "wrong", "no, 8 samples in 60 steps, loss to "),
}


@pytest.fixture(autouse=True)
def no_machine(monkeypatch):
    """What the machine can do is looked at by tests of its own, and pictures are drawn in one of them."""
    monkeypatch.setattr(machine, "check", lambda case, sound: ())
    monkeypatch.setattr(layers, "write", lambda *_: None)


def examined(one, tmp_path):
    return list(command.examined(one, tmp_path, refuse_broken))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_a_broken_model_gets_its_line_and_no_other(model, tmp_path):
    name, verdict, found = MODELS[model]
    lines = unsound(examined(case(model()), tmp_path))
    assert [(one.name, one.verdict) for one in lines] == [(name, verdict)], lines
    assert found in str(lines[0]) and lines[0].advice


@pytest.mark.parametrize(
    ("model", "options", "name", "verdict"),
    [
        (NormOfOne, {"batch_size": 1}, "BatchNorm", "wrong"),
        (Net, {"batch_size": 1}, "BatchNorm", "look"),
        (Net, {"lr": 1000, "optimizer": "SGD"}, "learning rate", "wrong"),
    ],
)
def test_an_option_that_breaks_a_sound_model_is_named(model, options, name, verdict, tmp_path):
    lines = unsound(examined(case(model(), options), tmp_path))
    assert [(one.name, one.verdict) for one in lines] == [(name, verdict)], lines


@pytest.mark.parametrize(("factor", "found"), [(55, "not normalised, mean "), (float("nan"), "it has nan or inf")])
def test_pictures_that_are_not_normalised_are_named(factor, found, tmp_path, monkeypatch):
    monkeypatch.setattr(Pictures, "prepare", lambda self, input, target, generator: (input.float() * factor, target))
    assert_only(examined(case(), tmp_path), "input", "wrong", found)


def spoiled(change):
    """A case that starts from a checkpoint, changed by `change`."""
    model = Net()
    content = {"weights": model.state_dict(), "info": {"classes": ["red", "blue"]}}
    with torch.no_grad():
        change(model, content)
    return case(model, start=content)


def test_a_sound_checkpoint_has_no_line_and_a_broken_one_has_its_own(tmp_path):
    assert unsound(examined(spoiled(lambda model, content: None), tmp_path)) == []
    nan = spoiled(lambda model, _: model.conv2.weight[0].fill_(float("nan")))
    assert_only(examined(nan, tmp_path), "weights", "wrong", "nan or inf in conv2.weight")
    dead = spoiled(lambda model, _: model.conv2.weight[:4].zero_())
    assert_only(examined(dead, tmp_path), "dead channels", "look", "always 0: conv2 (4 of 8)")
    other = spoiled(lambda _, content: content["info"].update(classes=["blue", "red"]))
    assert_only(examined(other, tmp_path), "class names", "wrong", "in another order, blue, red in the checkpoint")
    more = spoiled(lambda _, content: content["info"].update(classes=["red", "rose"]))
    assert_only(
        examined(more, tmp_path), "class names", "wrong", "only in the checkpoint: rose; only in the data: blue"
    )


def test_a_sound_case_has_no_line_and_nothing_of_it_changes(tmp_path):
    sound = case()
    before, generator = copy.deepcopy(sound.model.state_dict()), torch.get_rng_state()
    findings = examined(sound, tmp_path)
    assert unsound(findings) == [] and len(findings) == 24
    assert torch.equal(torch.get_rng_state(), generator) and sound.model.training
    after = sound.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(one.grad is None for one in sound.model.parameters())


def test_work_is_bounded_by_fewer_samples_and_then_fewer_steps():
    one = case()
    one.work = 1e9
    assert one.bounded(10, 8) == (10, 8)
    one.work = 1e10
    assert one.bounded(10, 8) == (10, 5) and one.bounded(60, 8) == (25, 2)
    one.work = 1e12
    assert one.bounded(10, 8) == (3, 2)
