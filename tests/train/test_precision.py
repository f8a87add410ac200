"""--precision=auto: what is measured decides, it is remembered, and nothing of a training changes by it."""

import copy
import json
import math
import os
import re

import pytest
import torch
import yaml
from conftest import FAST, UNDRAWN, main, server
from patients import Net, case

from utils.run.checkpoint_file import read_checkpoint
from utils.train import auto, batch_size, measuring, precision, processes


@pytest.fixture
def device(monkeypatch, tmp_path):
    """A machine that computes bf16, and the seconds of its steps, which the test may change; it counts them."""
    times = {"fp32": 0.02, "bf16": 0.01}
    calls = []

    def seconds(model, input, target, kind):
        calls.append(kind)
        return times[kind]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision, "native_precision", lambda device: "bf16")
    monkeypatch.setattr(precision, "seconds", seconds)
    return times, calls


def chosen(**options):
    one = case(options={"precision": "auto", **options})
    auto.settle(one.opt, one.model, one.train_data)
    assert one.model.precision == one.opt.precision
    return one.opt.precision


@pytest.mark.parametrize(
    ("fp32", "bf16", "expected"),
    [(0.02, 0.01, "bf16"), (0.01, 0.02, "fp32"), (1.0, 0.96, "fp32"), (1.0, 0.94, "bf16")]
    + [(0.01, math.inf, "fp32"), (math.inf, 0.01, "bf16"), (math.inf, math.inf, "bf16")],
)
def test_the_faster_precision_is_taken_and_fp32_where_it_is_about_as_fast(fp32, bf16, expected, device, capsys):
    device[0].update(fp32=fp32, bf16=bf16)
    assert chosen() == expected
    (line,) = capsys.readouterr().out.splitlines()
    figures = f"a step of 8 samples takes {1000 * fp32:.3g} ms in fp32, {1000 * bf16:.3g} ms in bf16 (measured in "
    assert line.startswith(f"computing on the CPU in {expected}: ") and "; --precision=auto)" in line
    assert figures.replace("8 samples", f"{8 if max(fp32, bf16) < 0.1 else 2} samples") in line


def test_it_is_measured_with_the_largest_of_pictures_that_grow(device, monkeypatch):
    one, told = case(options={"precision": "auto"}), []
    monkeypatch.setattr(one.train_data, "begin_epoch", told.append)
    auto.settle(one.opt, one.model, one.train_data)
    assert told == [1.0]


def test_it_is_measured_once_for_each_machine_model_and_batch(device, tmp_path, capsys, monkeypatch):
    times, calls = device
    path = tmp_path / "hearth" / "precision.json"
    assert chosen() == "bf16" and calls
    assert path.stat().st_mode & 0o777 == 0o600 and json.loads(path.read_text())
    capsys.readouterr()
    calls.clear()
    times["fp32"] = 0.001
    assert chosen() == "bf16" and calls == []
    measured = f"a step of 8 samples takes 20 ms in fp32, 10 ms in bf16 (as measured before, see {path}; --precision"
    assert measured in capsys.readouterr().out
    other_size = {"image_size": 64}, {"image_size": 64, "train_image_size": "32,48"}
    for other in ({"batch_size": 4}, {"accumulate": 2, "batch_size": 6}, *other_size):
        calls.clear()
        assert chosen(**other) == "fp32" and calls
    for patched, name, value in (
        (torch, "get_num_threads", lambda: 7),
        (torch, "__version__", "9.9"),
        (measuring, "processor", lambda: "another"),
        (Net, "forward", Net.forward),
    ):
        calls.clear()
        monkeypatch.setattr(patched, name, value)
        assert chosen() == "fp32" and bool(calls) is (patched is not Net)


@pytest.mark.parametrize("damage", ["", "[1]", "{", '{"KEY": {"samples": 8, "seconds": {"fp32": "x"}}}', "[" * 10**5])
def test_a_damaged_file_is_measured_anew_and_replaced(damage, device, tmp_path):
    assert chosen() == "bf16"
    path = tmp_path / "hearth" / "precision.json"
    (key,) = json.loads(path.read_text())
    path.write_text(damage.replace("KEY", key))
    device[1].clear()
    assert chosen() == "bf16" and device[1] and list(json.loads(path.read_text())) == [key]


@pytest.mark.parametrize("folder", ["file", "relative"])
def test_where_nothing_can_be_remembered_it_is_measured_all_the_same(folder, device, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file") if folder == "file" else "relative")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # without a home
    assert chosen() == "bf16" and os.listdir(tmp_path) == ["file"]


def test_what_other_work_disturbed_is_not_remembered(device, tmp_path, monkeypatch, capsys):
    steps = iter([0.0, 0.0] * 3 + [0.02, 0.01] + [0.05, 0.01] * measuring.MOST)
    monkeypatch.setattr(precision, "seconds", lambda *_: next(steps))
    assert chosen() == "bf16" and not (tmp_path / "hearth").exists()
    printed = capsys.readouterr().out
    assert re.search(r"20 ms in fp32, 10 ms in bf16 \(measured in [\d.]+ s and not remembered, because", printed)


def test_only_as_much_is_kept_as_is_of_use(device, tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "KEPT", 2)
    for size in (4, 6, 8):
        chosen(batch_size=size)
    found = json.loads((tmp_path / "hearth" / "precision.json").read_text())
    assert [key.rpartition(", ")[2] for key in found] == ["6", "8"]


def test_what_is_asked_for_and_what_has_no_choice_is_not_measured(device, monkeypatch):
    assert chosen(precision="fp32") == "fp32" and chosen(precision="fp16") == "fp16"
    for module in ("precision", "device"):
        monkeypatch.setattr(f"utils.train.{module}.native_precision", lambda device: "fp32")
    assert chosen() == "fp32" and device[1] == []


def test_of_several_processes_the_first_decides(device, monkeypatch):
    class Second(processes.World):
        def on_main(self, function, *arguments):
            return {precision.choose: "bf16", batch_size.choose: (64, 0.1)}[function]  # what it was sent

    monkeypatch.setattr(processes, "current", lambda: Second(1, 2))
    device[0]["fp32"] = 0.001
    assert chosen() == "bf16" and device[1] == []


def test_measuring_leaves_weights_buffers_gradients_and_random_numbers_as_they_are(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision, "native_precision", lambda device: "bf16")
    monkeypatch.setattr(measuring, "UNSTEADY", math.inf)
    one = case(options={"precision": "auto"})
    one.model.dropout = torch.nn.Dropout(0.5)
    monkeypatch.setattr(Net, "forward", lambda self, x: self.classifier(self.dropout(self.body(x))))
    before, state = copy.deepcopy(one.model.state_dict()), torch.random.get_rng_state()
    assert precision.choose(one.opt, one.model, one.train_data) in ("fp32", "bf16")
    precision.step_times(one.model, *one.few(8), ["fp32"])
    assert all(torch.equal(value, before[name]) for name, value in one.model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state()) and one.model.training
    assert all(parameter.grad is None for parameter in one.model.parameters())
    (found,) = json.loads((tmp_path / "hearth" / "precision.json").read_text()).values()
    assert found["samples"] == 8 and all(one > 0 for one in found["seconds"].values())


def test_a_model_that_fails_does_so_in_its_first_step_and_not_before(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(precision, "native_precision", lambda device: "bf16")
    monkeypatch.setattr(Net, "forward", lambda self, x: self.nothing(x))
    assert chosen() == "bf16" and not (tmp_path / "hearth").exists()
    one = case(options={"precision": "auto"})
    one.train_data.order = lambda generator: []
    assert precision.choose(one.opt, one.model, one.train_data) == "bf16"
    assert "no step could be measured" in capsys.readouterr().out


def test_a_training_is_the_same_after_it_was_measured_and_keeps_what_was_chosen(tmp_path, pictures):
    two = "import utils.train.precision as p; p.native_precision = lambda device: 'bf16'; p.GAIN = 0; "
    two += f"import os; os.environ['XDG_CACHE_HOME'] = {str(tmp_path)!r}; {UNDRAWN}"
    options = ["train", f"--train-data-root={pictures}", *FAST, "--max-epoch=1"]
    assert server().run(*options, "--work-dir=auto", cwd=tmp_path, first=two) == 0
    main(*options, "--work-dir=fp32", "--precision=fp32", cwd=tmp_path, check=0)
    (auto,), (plain,) = ((tmp_path / name).iterdir() for name in ("auto", "fp32"))
    weights, others = (read_checkpoint(run / "best.pth") for run in (auto, plain))
    assert all(torch.equal(value, others["weights"][name]) for name, value in weights["weights"].items())
    assert re.search(r"in fp32: a step of 4 samples takes .* \(measured in ", (tmp_path / "output").read_text())
    assert weights["info"]["config"]["precision"] == "fp32"
    assert yaml.safe_load((auto / "config.yaml").read_text())["precision"] == "fp32"
