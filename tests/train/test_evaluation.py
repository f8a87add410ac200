"""Memory that runs out in a real run: validation, test and training continue with fewer samples at a time."""

import csv
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn

import main as program
import models
from models.basic_module import BasicModule
from utils import UserError, watch
from utils.run.checkpoint_file import read_checkpoint
from utils.train import memory
from utils.train.evaluation import predicted
from utils.train.memory import Splitter, in_parts, largest_batch


class Small(BasicModule):
    """A small model with BatchNorm."""

    def __init__(self, num_classes=2):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))

    def features(self, x):
        return self.layers(x)


class SmallInEval(Small):
    """Has memory for five samples at a time without gradients."""

    def features(self, x):
        if not self.training and len(x) > 5:
            raise RuntimeError("could not create a primitive")
        return self.layers(x)


class Held:
    """Something to point at."""


class Full(torch.autograd.Function):
    """Runs out of memory in the backward pass of more than two samples."""

    @staticmethod
    def forward(ctx, value, held):
        ctx.held = held
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        if len(gradient) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return gradient, None


class SmallInTraining(Small):
    """Has memory for two samples at a time in training; what was in memory in a try that failed has to be gone."""

    def __init__(self, num_classes=2):
        super().__init__(num_classes)
        self.before = None

    def features(self, x):
        features = self.layers(x)
        if self.training:
            assert self.before is None or self.before() is None, "the try before is still in memory"
            held = Held()
            self.before = weakref.ref(held)
            features = Full.apply(features, held)
        return features


@pytest.fixture
def run(tmp_path, pictures, monkeypatch):
    """Call a command in this process, with a model of this file."""

    def call(command, made, **options):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(models, made.__name__, made, raising=False)
        monkeypatch.setattr(memory, "splitter", Splitter())  # as a new process has it
        monkeypatch.setattr(watch.History, "draw", lambda self: None)
        getattr(program, command)(**{"num_workers": 0, "progress": False, **options})

    small = {"train_data_root": str(pictures), "image_size": 32, "batch_size": 4, "vis_port": 1, "max_epoch": 1}
    small |= {"precision": "fp32", "lr": 0.01}
    call.train = lambda made, **options: call("train", made, model=made.__name__, **{**small, **options})
    return call


def out_of_memory(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if "out of memory" in line]


def test_a_validation_or_test_out_of_memory_continues_with_fewer_samples_at_a_time(run, pictures, tmp_path, capsys):
    expected = [
        f"warning: out of memory with {large} samples at a time: retrying with {small} (--val-batch-size={small})"
        for large, small in ((12, 6), (6, 3))
    ]
    counted = []

    class Counts(watch.History):
        def on_epoch_end(self, val_meter, **_):
            counted.append(val_meter.value())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(watch, "History", Counts)
        run.train(SmallInEval, val_batch_size=12)
    assert out_of_memory(capsys) == expected
    assert [matrix.sum() for matrix in counted] == [12]  # each once
    run("test", SmallInEval, test_data_root=str(pictures), dataset="ImageFolder", val_batch_size=12)
    assert out_of_memory(capsys) == expected
    with open(tmp_path / "result.csv", newline="") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    assert ids == sorted(ids) and sorted(ids) == sorted(path.name for path in pictures.iterdir())


def test_a_run_out_of_memory_ends_with_the_weights_of_smaller_parts(run, tmp_path, capsys):
    def weights(work_dir):
        (folder,) = (tmp_path / work_dir).iterdir()
        return read_checkpoint(folder / "last.pth")["weights"]

    run.train(SmallInTraining, work_dir="short")
    assert out_of_memory(capsys) == [
        "warning: out of memory with 4 samples at a time: retrying with 2 (--accumulate=2, the batch stays the same)"
    ]
    run.train(SmallInTraining, work_dir="asked", accumulate=2)
    assert out_of_memory(capsys) == []
    smaller, asked = weights("short"), weights("asked")
    assert smaller.keys() == asked.keys() and all(torch.equal(smaller[name], asked[name]) for name in asked)


def test_a_try_that_ran_out_of_memory_is_forgotten_before_the_next_one(monkeypatch):
    monkeypatch.setattr(memory, "splitter", Splitter())
    tries = []

    def work(input, target):
        held = nn.Module()  # what fills the memory
        assert all(other() is None for other in tries)
        tries.append(weakref.ref(held))
        if len(target) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return input, target

    for _ in range(2):
        parts = list(in_parts(work, torch.arange(9), list("abcdefghi")))
        assert [input.tolist() for input, _ in parts] == [[0], [1, 2], [3, 4], [5, 6], [7, 8]]
        assert sum((target for _, target in parts), []) == list("abcdefghi")
    assert len(tries) == 3 + 5 + 5  # tried in vain: 9, 4 and 3 samples, and not again in the second batch
    assert [len(target) for _, target in in_parts(work, torch.arange(4), list("abcd"))] == [2, 2]  # not in 5 parts


def test_where_one_sample_is_too_much_or_the_error_is_another_one_the_user_hears_of_it(monkeypatch, capsys):
    monkeypatch.setattr(memory, "splitter", Splitter())
    with pytest.raises(RuntimeError, match="size of tensor"):
        list(in_parts(lambda input, target: input + torch.zeros(3), torch.zeros(2), [0, 0]))

    def never(input, target):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(UserError, match=r"^out of memory with 1 sample at a time, and fewer .* \(--image-size\)"):
        list(in_parts(never, torch.zeros(5), [1, 2, 3, 4, 5]))
    assert "5 samples at a time: retrying with 3 (" in capsys.readouterr().err


@pytest.mark.parametrize(
    "free, times", [(0, 1), (255, 1), (257, 2), (511, 2), (513, 4), (1023, 4), (1025, 8), (9**9, 8)]
)
def test_a_validation_takes_a_quarter_of_a_gpus_free_memory_at_most(free, times, monkeypatch):
    """16 samples of two bytes each, on a GPU that says how much it has."""
    gpu = torch.device("cuda")
    monkeypatch.setattr(memory, "device_of", lambda model: gpu)
    monkeypatch.setattr(memory, "one_batch", lambda dataset, indices, device: (torch.zeros(len(indices), 3, 32, 32), 0))
    numbers = {
        "memory_allocated": 1000,
        "max_memory_allocated": 1000 + 2 * memory.MEASURED,
        "mem_get_info": (free, 9**9),
    }
    for name, value in {**numbers, "reset_peak_memory_stats": None}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert largest_batch(Small(), range(100), 16) == 16 * times


class Samples(list):
    def __init__(self, number):
        super().__init__(range(number))

    def prepare(self, input, target, generator):
        return input, target


def test_predictions_that_are_not_finite_are_counted_in_a_warning(capsys):
    class Fixed:
        def __iter__(self):
            yield torch.tensor([[1.0], [float("nan")]]), torch.tensor([1, 2])
            yield torch.tensor([[float("inf")]]), torch.tensor([3])

    class Same(nn.Linear):
        def autocast(self):
            return nullcontext()

        def predict(self, input):
            return input

    loader = Fixed()
    loader.dataset = Samples(3)
    assert len([*predicted(Same(1, 1), loader)]) == 2
    assert "warning: 2 predictions of 3 are not finite: the model has diverged" in capsys.readouterr().err
