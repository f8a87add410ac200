"""The command `doctor`: its lines, its report and its exit code."""

import os

import pytest
from conftest import main
from drawn import draw_shapes
from patients import Log, Pictures, case

from utils import UserError
from utils.doctor import command, layers


def test_the_layers_are_written_and_drawn(tmp_path):
    layers.write(layers.measure(case(Log())), tmp_path)
    header, *rows = (tmp_path / "layers.csv").read_text().splitlines()
    assert header == "layer,kind,mean,std,gradient_mean,gradient_std,dead,saturated"
    assert [row.split(",")[:2] for row in rows] == [
        ["conv", "Conv2d"],
        ["norm", "BatchNorm2d"],
        ["conv2", "Conv2d"],
        ["relu2", "ReLU"],
        ["classifier", "Linear"],
    ]
    assert rows[2].split(",")[2] == "nan" and (tmp_path / "doctor.png").stat().st_size > 10_000


def test_the_command_prints_a_line_per_check_and_ends_with_1_where_something_is_wrong(tmp_path):
    done = main("doctor", "--config=Heart", cwd=tmp_path, check=0)
    lines = done.stdout.splitlines()
    folder = tmp_path / "checkpoints" / "doctor"
    assert lines[-1] == "31 checks, 0 wrong, 0 to look at; report: checkpoints/doctor", done.stdout
    assert (folder / "doctor.txt").read_text().splitlines() == lines[-32:]
    assert {one.name for one in folder.iterdir()} == {"about.yaml", "doctor.txt", "doctor.png", "layers.csv"}
    done = main("doctor", "--config=Heart", "--lr=1000", "--report-dir=report", cwd=tmp_path, check=1)
    assert "wrong  learning rate          the loss explodes, lr 1000: loss " in done.stdout
    last = "31 checks, 1 wrong (checks that depend on it are left out), 0 to look at; report: report"
    assert (tmp_path / "report" / "doctor.txt").read_text().endswith(f"{last}\n")
    done = main("doctor", "--train-data-root=nowhere", cwd=tmp_path, check=2)
    assert done.stderr.startswith("main.py: --train-data-root: ") and len(done.stderr.splitlines()) == 1
    broken = draw_shapes(tmp_path / "set", 4, ["ground", "disc"])  # and a bar
    done = main("doctor", "--config=Segmentation", f"--train-data-root={broken}", cwd=tmp_path, check=2)
    assert done.stderr.startswith("main.py: 4 of 4 samples cannot be used") and "a pixel is 2" in done.stderr


def test_the_folder_of_a_run_that_is_being_trained_gets_no_report(tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    (run / "lock").write_text("")
    monkeypatch.setattr(command, "in_training", lambda path: path == run)
    with pytest.raises(UserError, match="run is the folder of a run that is being trained: name another$"):
        command.report_folder(case(options={"report_dir": run}))
    assert os.listdir(run) == ["lock"]
    kept = case(options={"work_dir": tmp_path})
    assert command.report_folder(kept) == tmp_path / "doctor" == command.report_folder(kept)
    kept.val_data = Pictures(14, 3)  # a report on other data stays
    assert command.report_folder(kept) == tmp_path / "doctor_2"
