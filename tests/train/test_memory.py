"""Memory that runs out: the same step in smaller parts, or one line that says what to do."""

import copy
import weakref

import pytest
import torch
from steps import OPTIMIZERS, Net, a_batch, equal, everything, take

from utils import UserError
from utils.metrics.meters import ConfusionMeter, TrainMeters
from utils.train.memory import Splitter
from utils.train.step import TrainStep


class Backward(torch.autograd.Function):
    """Does nothing, but what is asked in its backward; the graph holds on to `held`, as to activations."""

    @staticmethod
    def forward(ctx, value, ask, held):
        ctx.ask, ctx.held = ask, held
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.ask()
        return gradient, None, None


class Held:
    """Something to point at."""


class Small(Net):
    """Has memory for `room` samples at a time, and for no more in the try with the number `hurdle`; what was in memory
    in a try that failed has to be gone in the next."""

    def __init__(self, where, room=4, hurdle=None):
        super().__init__(dropout=0.5)
        self.where, self.room, self.hurdle, self.tries, self.before = where, room, hurdle, [], None

    def ask(self):
        if self.tries[-1] > self.room or len(self.tries) == self.hurdle:
            if self.where == "allocator":
                torch.empty(2**50, dtype=torch.uint8)  # the real thing
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def forward(self, x):
        if not hasattr(self, "tries"):
            return super().forward(x)
        assert self.before is None or self.before() is None, "the try before is still in memory"
        self.tries.append(len(x))
        held, late = Held(), self.where == "backward"
        self.before = weakref.ref(held)
        features = Backward.apply(self.layers[:4](x), self.ask if late else bool, held)
        if not late:
            self.ask()
        return self.layers[4:](features)


@pytest.mark.parametrize(
    "where, hurdle, tries",
    [
        ("forward", None, [8, 4, 4]),
        ("backward", None, [8, 4, 4]),
        ("allocator", None, [8, 4, 4]),
        ("forward", 3, [8, 4, 4, 2, 2, 2, 2]),
        ("backward", 3, [8, 4, 4, 2, 2, 2, 2]),
    ],
)
def test_where_memory_runs_out_smaller_parts_make_the_same_step(where, hurdle, tries, capsys):
    model = Small(where, hurdle=hurdle)
    twin = copy.deepcopy(model)
    twin.room, twin.hurdle = 99, None
    optimizer, other = OPTIMIZERS["SGD"](model), OPTIMIZERS["SGD"](twin)
    step, meters = TrainStep(model, optimizer), TrainMeters(ConfusionMeter("abc"))
    count = 8 // tries[-1]
    twin_step = TrainStep(twin, other, accumulate=count)
    same = TrainMeters(ConfusionMeter("abc"))
    for number in range(3):
        batch = a_batch(seed=number)
        take(model, step, *batch, number, meters=meters)
        take(twin, twin_step, *batch, number, meters=same)
    assert model.tries == tries + 2 * count * [8 // count]  # what was learnt of the memory is kept
    assert equal(everything(model, optimizer), everything(twin, other)) == []
    assert meters.losses.value() == same.losses.value() and (meters.scores.value() == same.scores.value()).all()
    assert meters.scores.value().sum() == 24
    lines = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    sizes = [8, 4, 2][: len(lines) + 1]
    assert lines == [
        f"warning: out of memory with {large} samples at a time: retrying with {small} (--accumulate={8 // small}, the "
        "batch stays the same)"
        for large, small in zip(sizes, sizes[1:], strict=False)
    ]
    assert len(lines) == {2: 1, 4: 2}[count]

    model.tries, model.hurdle = [], None
    resumed = TrainStep(model, optimizer)
    resumed.load_state_dict(step.state_dict())
    take(model, resumed, *a_batch())
    assert model.tries == count * [8 // count]


def test_where_two_samples_are_too_many_the_error_says_what_to_do_and_nothing_has_changed():
    model = Small("forward", room=1)
    step = TrainStep(model, OPTIMIZERS["SGD"](model), accumulate=2)
    before = everything(model, step.optimizer)
    with pytest.raises(
        UserError, match="^out of memory with 2 samples at a time, and fewer .*--image-size.*OutOfMemoryError"
    ):
        take(model, step, *a_batch(size=4))
    assert model.tries == [2]
    assert equal(before, everything(model, step.optimizer)) == []


@pytest.mark.parametrize("accumulate, parts", [(1, None), (4, None), (5, 4), (100, 4)])
def test_a_batch_that_cannot_be_divided_as_accumulate_says_is_a_note_once(capsys, accumulate, parts):
    splitter = Splitter(accumulate, least=2)
    assert len([*splitter.split(8)]) == (parts or accumulate)
    assert [*splitter.split(3)] == [slice(0, 3)]  # a smaller last batch is no news
    said = capsys.readouterr().out
    assert said.count("note:") == bool(parts)
    if parts:
        assert f"--accumulate={accumulate} is more than a batch of 8 samples allows: it is divided into 4," in said
