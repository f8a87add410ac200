"""The moving average of the weights: what it is made of, what leaves it alone, and that a run goes on with it."""

import copy
import math

import pytest
import torch
from test_update import OPTIMIZERS, Net, a_batch, equal, take

from models.checkpoint import read_checkpoint
from utils.average import Average
from utils.update import Update

DECAY = 0.9


def a_training(decay=DECAY, model=None):
    """(model, Update, Average)"""
    torch.manual_seed(0)
    model = model or Net()
    update = Update(model, OPTIMIZERS["Adam"](model))
    return model, update, Average(model, update, decay)


def go_on(training, steps, bad=()):
    """Take the steps of these numbers, in some of which a picture is nan."""
    model, update, average = training
    for number in steps:
        input, target = a_batch(seed=number)
        take(model, update, input * math.nan if number in bad else input, target, number)
        average.step()


def test_it_is_what_the_formula_says_for_weights_and_statistics():
    model, update, average = training = a_training()
    initial = copy.deepcopy(model.state_dict())
    assert equal(initial, average.module.state_dict()) == []
    expected = {name: value.double() for name, value in initial.items()}
    for number in range(120):
        go_on(training, [number])
        decay = min(DECAY, (1 + number) / (10 + number))
        for name, value in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in average.module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert value == initial[name] + 120
        else:
            assert torch.allclose(value.double(), expected[name], rtol=1e-4, atol=1e-6), name
    assert {"layers.0.weight", "layers.1.running_mean"} <= set(equal(initial, average.module.state_dict()))


def test_a_step_without_effect_does_not_change_it():
    model, update, average = training = a_training()
    go_on(training, range(3))
    before = copy.deepcopy(average.module.state_dict())
    go_on(training, [3], bad=[3])
    assert equal(before, average.module.state_dict()) == []
    assert [number for number, _ in update.skipped()] == [3]
    go_on(training, [4])
    assert equal(before, average.module.state_dict())


def test_steps_without_effect_do_not_make_the_first_ones_count_for_less():
    calm, late = a_training(), a_training()
    go_on(calm, range(10, 13))
    go_on(late, range(13), bad=range(10))
    assert equal(calm[2].module.state_dict(), late[2].module.state_dict()) == []


def test_a_run_goes_on_with_it_in_the_same_bits(tmp_path):
    whole, stopped, resumed = a_training(), a_training(), a_training()
    go_on(whole, range(8), bad=[4])
    go_on(stopped, range(5), bad=[4])
    model, update, average = stopped
    states = {
        "optimizer": update.optimizer.state_dict(),
        "update": update.state_dict(),
        "average": average.state_dict(),
    }
    path = model.save(tmp_path / "last.pth", **states)
    best = average.module.save(tmp_path / "best.pth")
    content = read_checkpoint(path)
    assert equal(average.module.state_dict(), read_checkpoint(best)["weights"]) == []

    resumed[0].load(path)
    for name, part in (("optimizer", resumed[1].optimizer), ("update", resumed[1]), ("average", resumed[2])):
        part.load_state_dict(content[name])
    go_on(resumed, range(5, 8))
    assert equal(whole[0].state_dict(), resumed[0].state_dict()) == []
    assert equal(whole[2].module.state_dict(), resumed[2].module.state_dict()) == []


def test_it_is_a_model_like_the_other():
    model = Net()
    model.info, model.precision, model.head = {"classes": ["a", "b", "c"]}, "bf16", "layers.5"
    model.set_criterion("0.5*cross_entropy+0.5*focal", torch.tensor([1.0, 2.0, 3.0]))
    model.freeze_body()
    model.train()
    _, update, average = training = a_training(model=model)
    frozen = copy.deepcopy(model.layers[0].weight)
    go_on(training, range(3))
    other = average.module
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
    model, update, average = a_training(decay)
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    path = tmp_path / "last.pth"
    model.save(path, average=average.state_dict())
    assert path.stat().st_size < times * (size + 6000)  # names and the like
    average.module.save(path)
    assert path.stat().st_size < size + 6000


def test_without_decay_it_is_the_model_itself():
    model, update, average = training = a_training(0.0)
    go_on(training, range(2))
    assert average.module is model and average.state_dict() == {}
    average.load_state_dict({})
