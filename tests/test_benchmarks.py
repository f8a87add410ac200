"""The benchmarks at their smallest: that they run, and that what they measure is there to be measured."""

import importlib
import subprocess
import sys

import pytest
from conftest import ROOT

from benchmarks import growth, whole_program
from benchmarks.common import ratios, spread


def benchmark(name, *options):
    command = [sys.executable, "-m", f"benchmarks.{name}", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_medians_and_ratios():
    assert spread([3.0, 1.0, 8.0], "s") == "n 3, median 3.00 s, 1.00 to 8.00"
    assert ratios([1.0, 2.0, 9.0], [2.0, 8.0, 9.0]) == "0.250 (turn by turn 0.250 to 1.000)"


def test_startup_tells_what_loads_torch_and_appends_to_the_results(tmp_path):
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n")
    done = benchmark("startup", "--n=1", f"--results={results}")
    assert done.returncode == 0, done.stderr
    loading = {line[:15].strip(): line.endswith("loads torch") for line in done.stdout.splitlines()[1:]}
    expected = {"help": False, "misspelt option": False, "misspelt model": False, "python -c pass": False}
    assert loading == expected | {"import torch": True}
    head, _, section = results.read_text().partition("\n## startup.py, ")
    assert head == "# Results\n" and f"```\n{done.stdout}```\n" in section


def test_both_pipelines_are_measured(tmp_path, pictures):
    done = benchmark("pipeline", "--n=1", f"--root={pictures}", f"--results={tmp_path / 'RESULTS.md'}")
    assert done.returncode == 0, done.stderr
    assert sum(line.startswith("  book") for line in done.stdout.splitlines()) == 6
    assert sum(line.startswith("  hearth") and ", ratios " in line for line in done.stdout.splitlines()) == 4


@pytest.mark.parametrize("name", ["whole_program", "pipeline"])
def test_missing_photographs_are_one_line(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, f"--root={tmp_path / 'none'}", f"--results={tmp_path / 'RESULTS.md'}"])
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(f"benchmarks.{name}").main()
    told = capsys.readouterr()
    assert told.out.count("\n") == 1 and "no photographs in" in told.out
    assert told.err == "" and list(tmp_path.iterdir()) == []


def test_a_training_tells_how_long_its_training_phase_was(tmp_path, pictures):
    whole, training = whole_program.hearth(pictures, tmp_path, tmp_path / "packs", "squeezenet1_1")
    assert 0 < training < whole


def test_memory_and_time_of_a_training(tmp_path):
    growth.link(growth.draw(tmp_path / "drawn"), tmp_path / "train", 100)
    names = {path.name for path in (tmp_path / "train").iterdir()}
    assert len(names) == 100 and {"cat.0.jpg", "dog.0.jpg", "cat.49.jpg", "dog.49.jpg"} <= names
    epochs, rest, own, largest = growth.train(tmp_path / "train", tmp_path, 1)
    assert len(epochs) == 1 and epochs[0] > 0 and rest > 0
    assert 50e6 < own < 20e9 and 50e6 < largest < 20e9
