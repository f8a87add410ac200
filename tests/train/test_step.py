"""One step of the optimizer: micro-batches, precision, clipping, and steps that must not happen."""

import copy
import math
import weakref

import pytest
import torch
from steps import OPTIMIZERS, Net, a_batch, equal, everything, take

from utils.metrics.meters import ConfusionMeter, TrainMeters
from utils.train.device import BLOCK
from utils.train.step import TrainStep


class Another:
    """A World whose other process has the same batch, and needs four parts for it."""

    rank, size = 0, 2

    def all_reduce_sum(self, tensors):
        torch._foreach_mul_(tensors, 2)

    def all_reduce_max(self, number):
        return max(number, 4)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("first", [True, False])
def test_a_step_that_is_not_finite_leaves_no_trace_and_the_next_one_counts(kind, bad, first):
    model = Net()
    optimizer = OPTIMIZERS[kind](model)
    twin, other = copy.deepcopy(model), None
    step = TrainStep(model, optimizer)
    input, target = a_batch()
    if not first:
        take(model, step, input, target, 0)
    before = everything(model, optimizer)

    poisoned = input.clone()
    poisoned[3] = bad
    take(model, step, poisoned, target, 1)
    spoilt = everything(model, optimizer)
    assert equal(before, {name: spoilt[name] for name in before}) == []

    take(model, step, input, target, 2)
    after = everything(model, optimizer)
    assert {"layers.0.weight", "layers.1.running_var", "layers.5.weight"} <= set(equal(before, after))
    assert all(torch.as_tensor(value).isfinite().all() for value in after.values())
    assert [number for number, _ in step.pop_skipped()] == [1]
    assert step.pop_skipped() == []
    if first:  # as if it had never been
        other = TrainStep(twin, OPTIMIZERS[kind](twin))
        take(twin, other, input, target, 0)
        assert equal(twin.state_dict(), model.state_dict()) == []


def test_a_skipped_step_is_reported_with_the_components_of_its_loss():
    model = Net()
    step = TrainStep(model, OPTIMIZERS["SGD"](model))
    for number in range(2 * BLOCK + 3):
        factor = math.nan if number in (1, BLOCK, 2 * BLOCK + 2) else 1.0
        spoil = lambda losses, factor=factor: {"a": losses["loss"], "b": factor * losses["loss"]}  # noqa: E731
        take(model, step, *a_batch(), number, spoil)
    skipped = step.pop_skipped()
    assert [number for number, _ in skipped] == [1, BLOCK, 2 * BLOCK + 2]
    assert all(math.isfinite(losses["a"]) and math.isnan(losses["b"]) for _, losses in skipped)


def test_a_loss_that_is_nan_without_a_bad_gradient_is_skipped_too():
    model = Net()
    optimizer = OPTIMIZERS["Adam"](model)
    step = TrainStep(model, optimizer)
    take(model, step, *a_batch())
    before = everything(model, optimizer)
    take(model, step, *a_batch(), 1, lambda losses: {**losses, "constant": torch.tensor(math.nan)})
    assert equal(before, everything(model, optimizer)) == []
    assert len(step.pop_skipped()) == 1


def test_a_gradient_that_is_nan_under_a_finite_loss_is_skipped_and_reported():
    model = Net()
    optimizer = OPTIMIZERS["Adam"](model)
    step = TrainStep(model, optimizer)
    before = everything(model, optimizer)
    # The square root's slope at 0 is infinite, and infinity times 0 is no number.
    take(model, step, *a_batch(), 7, lambda losses: {"loss": losses["loss"] + (0 * losses["loss"]).sqrt()})
    assert equal(before, everything(model, optimizer)) == []
    ((number, losses),) = step.pop_skipped()
    assert number == 7 and math.isfinite(losses["loss"])


@pytest.mark.parametrize("parts, sizes", [(1, [8]), (2, [4, 4]), (3, [2, 3, 3]), (8, [2] * 4), (20, [2] * 4)])
def test_a_batch_in_parts_makes_the_same_step(parts, sizes):
    whole = Net(norm=False)
    split = copy.deepcopy(whole)
    input, target = a_batch()
    one, other = (TrainStep(model, OPTIMIZERS["SGD"](model), accumulate=n) for model, n in ((whole, 1), (split, parts)))
    take(whole, one, input, target)
    seen = [len(part) for part, _ in other.micro_batches(input, target)]
    take(split, other, input, target)
    assert seen == sizes
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, split.state_dict()[name], atol=1e-6), name


def test_detections_of_lists_are_split_too():
    model = Net()
    step = TrainStep(model, OPTIMIZERS["SGD"](model), accumulate=2)
    parts = list(step.micro_batches(["a", "b", "c", "d"], [{"x": 1}, {"x": 2}, {"x": 3}, {"x": 4}]))
    assert parts == [(["a", "b"], [{"x": 1}, {"x": 2}]), (["c", "d"], [{"x": 3}, {"x": 4}])]


def test_any_other_error_of_a_part_goes_its_way():
    model = Net()
    step = TrainStep(model, OPTIMIZERS["SGD"](model))
    with pytest.raises(RuntimeError, match="expected input"):
        take(model, step, torch.zeros(4, 2, 8, 8), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("parts", [1, 2])
def test_an_unfinished_step_is_undone_and_a_finished_one_is_not(parts):
    model = Net()
    optimizer = OPTIMIZERS["Adam"](model)
    step, meters = TrainStep(model, optimizer, accumulate=2), TrainMeters(ConfusionMeter("abc"))
    take(model, step, *a_batch(), meters=meters)
    before = everything(model, optimizer)
    for part, _ in zip(step.micro_batches(*a_batch(seed=1)), range(parts), strict=False):
        score, losses = model.objective(*part)
        step.backward(losses, score)
    assert "layers.1.running_mean" in equal(before, everything(model, optimizer))
    step.rollback()
    assert equal(before, everything(model, optimizer)) == []
    assert all(parameter.grad is None for parameter in model.parameters())
    assert meters.scores.value().sum() == 8

    take(model, step, *a_batch(seed=1), 1, meters=meters)
    after = everything(model, optimizer)
    step.rollback()
    assert equal(after, everything(model, optimizer)) == [] and equal(before, after)
    assert meters.scores.value().sum() == 16


def test_the_reported_loss_is_the_mean_over_batches_whatever_the_parts():
    input, target = a_batch()
    meters = {}
    for parts in (1, 2, 3):
        torch.manual_seed(0)
        model = Net(norm=False)
        meters[parts] = TrainMeters(ConfusionMeter("abc"))
        take(model, TrainStep(model, OPTIMIZERS["SGD"](model), accumulate=parts), input, target, meters=meters[parts])
        take(model, TrainStep(model, OPTIMIZERS["SGD"](model)), input[:4], target[:4], meters=meters[parts])
    for one in meters.values():
        assert one.losses.value() == pytest.approx(meters[1].losses.value(), rel=1e-5) and one.losses.n == 2
        assert (one.scores.value() == meters[1].scores.value()).all()


def test_gradients_are_clipped_to_the_norm_asked_for():
    model = Net(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    take(
        model,
        TrainStep(model, optimizer, clip_grad=0.25),
        *a_batch(),
        spoil=lambda losses: {"loss": 100 * losses["loss"]},
    )
    moved = torch.cat([(p - q).flatten() for p, q in zip(model.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.25, rel=1e-3)


def test_fp16_finds_its_scale_without_a_word_and_keeps_it_in_the_checkpoint():
    model = Net(norm=False)
    model.precision = "fp16"
    step = TrainStep(model, OPTIMIZERS["SGD"](model), precision="fp16")
    before = everything(model, step.optimizer)
    take(model, step, *a_batch(), spoil=lambda losses: {"loss": losses["loss"] * 1e36})  # times 65536 is infinite
    assert equal(before, everything(model, step.optimizer)) == [] and step.pop_skipped() == []
    assert step.state_dict()["scale"] == 32768.0
    other = TrainStep(model, OPTIMIZERS["SGD"](model), precision="fp16")
    other.load_state_dict(step.state_dict())
    take(model, other, *a_batch())
    assert other.state_dict()["scale"] == 32768.0
    assert equal(before, everything(model, other.optimizer))
    for number in range(20):  # nothing is learnt any more
        take(model, other, *a_batch(), number, lambda losses: {"loss": losses["loss"] + (0 * losses["loss"]).sqrt()})
    assert [number for number, _ in other.pop_skipped()] == [16, 17, 18, 19]


KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@pytest.mark.parametrize("precision, kind", KINDS.items())
def test_the_model_computes_in_its_precision_and_learns_in_float32(precision, kind):
    model = Net()
    model.precision = precision
    step = TrainStep(model, OPTIMIZERS["Adam"](model), precision=precision)
    seen = []
    model.layers[0].register_forward_hook(lambda module, input, output: seen.append(output.dtype))
    first = take(model, step, *a_batch())
    for number in range(1, 30):
        last = take(model, step, *a_batch(), number)
    assert set(seen) == {kind}
    assert first.dtype == torch.float32 and last < 0.5 * first
    assert all(value.dtype == torch.float32 for value in model.parameters())
    assert model.predict(a_batch()[0]).dtype == torch.float32


def test_buffers_share_memory_and_are_saved_and_loaded_as_before(tmp_path):
    model, other = Net(), Net()
    step = TrainStep(model, OPTIMIZERS["SGD"](model))
    take(model, step, *a_batch())
    path = model.save(tmp_path / "saved.pth")
    TrainStep(other, OPTIMIZERS["SGD"](other))
    other.load(path)
    assert equal(model.state_dict(), other.state_dict()) == []
    inside = torch.cat([model.layers[1].running_mean, model.layers[1].running_var])
    assert torch.equal(step.buffers[0], inside) and not torch.equal(inside, torch.tensor([0.0] * 8 + [1.0] * 8))


def test_all_processes_take_as_many_parts_as_the_one_with_the_least_memory():
    model = Net()
    step = TrainStep(model, OPTIMIZERS["SGD"](model), world=Another())
    take(model, step, *a_batch(size=7))
    assert step.splitter.parts == step.state_dict()["accumulate"] == 4


def test_statistics_that_no_process_changes_keep_their_bits_and_others_are_averaged():
    torch.manual_seed(0)
    model = Net()
    model.layers[1].eval()
    model.layers[1].running_mean.normal_()
    model.layers[1].running_var[0] = torch.finfo(torch.float32).min
    step = TrainStep(model, OPTIMIZERS["SGD"](model), world=Another())
    before = model.layers[1].running_mean.clone()
    take(model, step, *a_batch(size=7))
    assert torch.equal(model.layers[1].running_mean, before)
    assert model.layers[1].running_var[0] == torch.finfo(torch.float32).min
    alone, together = Net(), Net()
    together.load_state_dict(alone.state_dict())
    take(alone, TrainStep(alone, OPTIMIZERS["SGD"](alone)), *a_batch(size=7))
    take(together, TrainStep(together, OPTIMIZERS["SGD"](together), world=Another()), *a_batch(size=7))
    assert torch.allclose(alone.layers[1].running_mean, together.layers[1].running_mean)


def test_the_last_batch_is_there_to_be_drawn_and_gone_with_the_next_one():
    model = Net()
    step, batches = TrainStep(model, OPTIMIZERS["SGD"](model), accumulate=2), [a_batch(seed=seed) for seed in (0, 1)]
    take(model, step, *batches[0], meters=TrainMeters(ConfusionMeter(range(3))))
    assert step.batch[0] is batches[0][0] and step.batch[1] is batches[0][1]
    held = weakref.ref(batches.pop(0)[0])
    assert held() is not None
    take(model, step, *batches[0])
    assert held() is None and step.batch[0] is batches[0][0]
