"""--batch-size=auto: the rule, its learning rate, and that nothing of a training changes by the measurement."""

import copy
import json
import math
import re

import pytest
import torch
import yaml
from conftest import FAST, UNDRAWN, main, server
from patients import case

import config
from utils import UserError
from utils.run import resume
from utils.search import folds
from utils.train import auto, batch_size, measuring, processes


@pytest.mark.parametrize(
    ("paces", "size"),
    [
        ({8: 100.0}, 8),
        ({8: 100.0, 16: 104.0, 32: 105.0}, 8),
        ({8: 90.0, 16: 100.0, 32: 105.0}, 16),
        ({8: 50.0, 16: 100.0, 32: 200.0}, 32),
        ({8: 50.0, 16: 100.0, 32: 40.0}, 16),
    ],
)
def test_the_smallest_that_is_as_fast_as_any_is_taken(paces, size):
    assert batch_size.smallest(paces) == size


@pytest.mark.parametrize(
    ("samples", "processes", "sizes"),
    [(0, 1, [8]), (200, 1, [8]), (256, 1, [8, 16]), (1820, 1, [8, 16, 32, 64]), (1820, 5, [16, 32, 64])]
    + [(200, 5, [10]), (10**6, 1, [8, 16, 32, 64, 128, 256, 512, 1024])],
)
def test_a_sixteenth_of_the_samples_at_most_is_tried(samples, processes, sizes):
    assert batch_size.tried(samples, processes) == sizes


@pytest.fixture
def device(monkeypatch, tmp_path):
    """A machine on which a step of n samples takes `time(n)` seconds, of many training samples; it lists the sizes."""
    times, calls = {"time": lambda size: 0.001 + size * 1e-5}, []

    def seconds(step, input, target):
        calls.append(len(input))
        step.splitter.least = len(input)
        return times["time"](len(input))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(batch_size, "seconds", seconds)
    monkeypatch.setattr(batch_size, "SHARE", 0.01)  # of the 24 samples there are
    return times, calls


def chosen(config_file=None, **options):
    one = case(options={"precision": "fp32", "batch_size": "auto", **options})
    if config_file:
        one.opt = config.load({"config": str(config_file), "batch_size": "auto", "precision": "fp32"}, command="train")
    auto.settle(one.opt, one.model, one.train_data)
    return one.opt.batch_size, one.opt.lr


def test_it_is_printed_with_its_figures_and_the_rate_that_was_asked_for_stays(device, capsys):
    assert chosen(lr=0.01) == (1024, 0.01)
    _, line = capsys.readouterr().out.splitlines()
    begin, end = (
        "batch of 1024 samples: 91103 a second, 7407 with 8, 13793 with 16, ",
        "; --batch-size=auto); lr ",
    )
    assert line.startswith(begin) and line.endswith(f"{end}0.01 as given") and " (measured in " in line


def test_where_the_samples_allow_one_size_alone_that_is_said(device, capsys, monkeypatch):
    monkeypatch.setattr(batch_size, "SHARE", 16)
    assert chosen(lr=0.01)[0] == 8
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith("batch of 8 samples: 7407 a second, more are not tried with 24 samples (measured in ")


@pytest.mark.parametrize(
    ("written", "lr"),
    [
        ("optimizer: Adam", 0.001 * math.sqrt(16 / 32)),
        ("optimizer: Muon", 0.001 * 16 / 32),
        ("config: CIFAR10\ndataset: DogCat\ndownload: false", 0.1 * 16 / 128),
        ("config: Coco\nbatch_size: auto", 3e-4 * math.sqrt(16 / 4)),
        ("batch_size: 64\nlr: 0.02", 0.02),
    ],
)
def test_the_rate_is_scaled_from_the_batch_that_the_preset_was_made_for(written, lr, device, tmp_path, capsys):
    device[0]["time"] = lambda size: max(size, 16) / 1000
    (tmp_path / "my.yaml").write_text(written)
    assert chosen(tmp_path / "my.yaml") == (16, pytest.approx(lr))
    shown = f"{lr:.3g} as given" if "lr" in written else f" -> {lr:.3g}"
    assert capsys.readouterr().out.endswith(f"{shown}\n")


def test_it_stops_where_more_brings_nothing_takes_long_or_does_not_fit(device, monkeypatch):
    times, calls = device
    times["time"] = lambda size: 0.01 * size
    assert chosen()[0] == 8 and max(calls) == 32, "two sizes brought nothing"
    times["time"] = lambda size: 0.7 + size / 1000
    calls.clear()
    assert chosen(ema=0.5)[0] == 512 and max(calls) == 512, "0.7 s + 0.512 s is long"

    def small(size):
        if size > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0.01

    times["time"] = small
    assert chosen(ema=0.6)[0] == 64
    monkeypatch.setattr(batch_size, "memory", lambda device: 100)
    monkeypatch.setattr(batch_size, "peak", lambda device: 2 * calls[-1])
    assert chosen(ema=0.7)[0] == 32, "64 samples need 128 of 100 bytes"


def test_it_is_measured_once_but_not_remembered_where_other_work_disturbed(device, tmp_path, capsys):
    times, calls = device
    assert chosen()[0] == 1024 and calls
    calls.clear()
    assert chosen()[0] == 1024 and calls == [] and "(as measured before, see " in capsys.readouterr().out
    for other in ({"optimizer": "SGD"}, {"ema": 0.9}, {"image_size": 64}, {"precision": "bf16"}):
        calls.clear()
        assert chosen(**other) and calls
    found = json.loads((tmp_path / "hearth" / "batch_size.json").read_text())
    turn = iter([0.001, 0.001] + [0.01] * 10000)
    times["time"] = lambda size: next(turn)
    chosen(ema=0.99)
    assert json.loads((tmp_path / "hearth" / "batch_size.json").read_text()) == found
    assert " and not remembered, because other work slowed some steps" in capsys.readouterr().out


def test_a_real_measurement_leaves_weights_buffers_and_random_numbers_as_they_are(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(batch_size, "SECONDS", 0)
    monkeypatch.setattr(batch_size, "SHARE", 1)
    monkeypatch.setattr(measuring, "UNSTEADY", math.inf)
    one = case(options={"precision": "fp32", "batch_size": "auto", "ema": "0.9"})
    before, state = copy.deepcopy(one.model.state_dict()), torch.random.get_rng_state()
    auto.settle(one.opt, one.model, one.train_data)
    assert one.opt.batch_size in (8, 16) and "no step could" not in capsys.readouterr().out
    assert all(torch.equal(value, before[name]) for name, value in one.model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state()) and one.model.training
    assert all(parameter.grad is None for parameter in one.model.parameters())
    (found,) = json.loads((tmp_path / "hearth" / "batch_size.json").read_text()).values()
    assert list(found["seconds"]) == ["8", "16"]


def test_where_nothing_can_be_measured_the_presets_number_is_taken(device, capsys):
    device[0]["time"] = lambda size: 1 / 0
    assert chosen(lr=0.01) == (32, 0.01) and "32 samples: no step could be measured" in capsys.readouterr().out


def test_a_batch_that_is_divided_is_refused():
    with pytest.raises(UserError, match="--batch-size=auto takes what fits, --accumulate=2 is for what does not"):
        config.load({"batch_size": "auto", "accumulate": 2})


def test_all_folds_take_what_the_first_one_measured(tmp_path):
    opt = config.load({"folds": 2, "fold": "all", "batch_size": "auto", "precision": "fp32"}, command="train")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("fold: 0\nbatch_size: 64\nlr: 0.5\n")
    (tmp_path / "run" / "lock").write_text("failed")
    trained = []

    class Program:
        def train(self, opt):
            trained.append((opt.batch_size, opt.lr))
            raise KeyboardInterrupt

    for asked in ({}, {"lr": 0.1}):
        opt.update(asked)
        with pytest.raises(KeyboardInterrupt):
            folds.train_fold(Program(), opt, tmp_path, 1)
    assert trained == [(64, 0.5), (64, 0.1)]


def test_a_run_records_the_number_and_a_resumed_one_or_val_takes_it(tmp_path, pictures):
    first = "import utils.train.batch_size as b; b.SHARE, b.SECONDS = 1, 0; "
    first += f"import os; os.environ['XDG_CACHE_HOME'] = {str(tmp_path)!r}; {UNDRAWN}"
    again = ["--resume=auto", "--batch-size=auto", "--config=Finetune", "--finetune=False", "--pretrained=None"]
    options = [*again, f"--train-data-root={pictures}", *(one for one in FAST if "batch" not in one)]
    assert server().run("train", *options, "--precision=auto", "--max-epoch=1", cwd=tmp_path, first=first) == 0
    (run,) = (tmp_path / "checkpoints").iterdir()
    (line,) = re.findall("^batch of .*", (tmp_path / "output").read_text(), re.MULTILINE)
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["batch_size"] in (8, 16) and line.startswith(f"batch of {saved['batch_size']} samples: ")
    assert saved["lr"] == pytest.approx(0.01 * math.sqrt(saved["batch_size"] / 32))
    (run / "lock").write_text("unfinished")
    done = main("train", *options, "--precision=auto", "--max-epoch=2", cwd=tmp_path, check=0)
    assert "batch of " not in done.stdout and "epoch 2/2" in done.stdout
    given = config.load({"batch_size": "auto", "work_dir": str(tmp_path / "checkpoints")}, command="val")
    assert resume.trained(given)[0].batch_size == saved["batch_size"]
    wanted = {"batch_size": "auto", "work_dir": str(tmp_path / "checkpoints"), "replay": run.name}
    given = config.load(wanted, command="train")
    opt, _ = resume.resolve(given, processes.ALONE)
    assert (opt.batch_size, opt.lr) == (saved["batch_size"], saved["lr"])
