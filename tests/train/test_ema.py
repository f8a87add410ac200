"""The moving average of the weights: what it is made of, what leaves it alone, and that a resumed run continues it."""

import copy
import math

import pytest
import torch
from steps import OPTIMIZERS, Net, a_batch, equal, take

from utils.run.checkpoint_file import read_checkpoint
from utils.train.step import TrainStep

DECAY = 0.9


def a_training(decay=DECAY, model=None):
    """(model, TrainStep)"""
    torch.manual_seed(0)
    model = model or Net()
    return model, TrainStep(model, OPTIMIZERS["Adam"](model), ema=decay)


def take_steps(training, steps, bad=()):
    """Take the steps of these numbers, in some of which a picture is nan."""
    model, step = training
    for number in steps:
        input, target = a_batch(seed=number)
        take(model, step, input * math.nan if number in bad else input, target, number)


def test_it_is_what_the_formula_says_for_weights_and_statistics():
    model, step = training = a_training()
    initial = copy.deepcopy(model.state_dict())
    assert equal(initial, step.ema_model.state_dict()) == []
    expected = {name: value.double() for name, value in initial.items()}
    for number in range(120):
        take_steps(training, [number])
        decay = min(DECAY, (1 + number) / (10 + number))
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in step.ema_model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == initial[name] + 120
        else:
            assert torch.allclose(value.double(), expected[name], rtol=1e-4, atol=1e-6), name
    assert {"layers.0.weight", "layers.1.running_mean"} <= set(equal(initial, step.ema_model.state_dict()))


def test_a_step_without_effect_does_not_change_it():
    model, step = training = a_training()
    take_steps(training, range(3))
    before = copy.deepcopy(step.ema_model.state_dict())
    take_steps(training, [3], bad=[3])
    assert equal(before, step.ema_model.state_dict()) == []
    assert [number for number, _ in step.pop_skipped()] == [3]
    take_steps(training, [4])
    assert equal(before, step.ema_model.state_dict())


def test_steps_without_effect_do_not_make_the_first_ones_count_for_less():
    calm, late = a_training(), a_training()
    take_steps(calm, range(10, 13))
    take_steps(late, range(13), bad=range(10))
    assert equal(calm[1].ema_model.state_dict(), late[1].ema_model.state_dict()) == []


def test_a_resumed_run_continues_it_in_the_same_bits(tmp_path):
    whole, stopped, resumed = a_training(), a_training(), a_training()
    take_steps(whole, range(8), bad=[4])
    take_steps(stopped, range(5), bad=[4])
    model, step = stopped
    path = model.save(tmp_path / "last.pth", optimizer=step.optimizer.state_dict(), step=step.state_dict())
    best = step.ema_model.save(tmp_path / "best.pth")
    content = read_checkpoint(path)
    assert equal(step.ema_model.state_dict(), read_checkpoint(best)["weights"]) == []

    resumed[0].load(path)
    resumed[1].optimizer.load_state_dict(content["optimizer"])
    resumed[1].load_state_dict(content["step"])
    take_steps(resumed, range(5, 8))
    assert equal(whole[0].state_dict(), resumed[0].state_dict()) == []
    assert equal(whole[1].ema_model.state_dict(), resumed[1].ema_model.state_dict()) == []


def test_it_is_a_model_like_the_other():
    model = Net()
    model.info, model.precision, model.head = {"classes": ["a", "b", "c"]}, "bf16", "layers.5"
    model.set_criterion("0.5*cross_entropy+0.5*focal", torch.tensor([1.0, 2.0, 3.0]))
    model.freeze_body()
    model.train()
    _, step = training = a_training(model=model)
    frozen = copy.deepcopy(model.layers[0].weight)
    take_steps(training, range(3))
    other = step.ema_model
    assert (type(other), other.info, other.precision) == (Net, model.info, "bf16")
    assert other.criterion is not model.criterion and other.criterion.terms == model.criterion.terms
    assert torch.equal(other.layers[0].weight, frozen)
    assert not torch.equal(other.layers[5].weight, model.layers[5].weight)
    model.load_state_dict(other.state_dict())
    input, target = a_batch()
    with torch.inference_mode():
        (score, losses), (same, parts) = (one.eval().objective(input, target) for one in (model, other))
    assert torch.equal(score, same) and losses == parts


@pytest.mark.parametrize("decay, times", [(0.0, 1), (DECAY, 2)])
def test_what_it_adds_to_a_checkpoint_is_its_weights_once(tmp_path, decay, times):
    model, step = a_training(decay)
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    path = tmp_path / "last.pth"
    model.save(path, step=step.state_dict())
    assert path.stat().st_size < times * (size + 6000)  # names and the like
    step.ema_model.save(path)
    assert path.stat().st_size < size + 6000


def test_without_decay_it_is_the_model_itself():
    model, step = training = a_training(0.0)
    take_steps(training, range(2))
    assert step.ema_model is model and step.state_dict()["ema"] == {}
    step.load_state_dict(step.state_dict())
