"""`python main.py runs`: run folders as trainings leave them, made here, and through the real command line."""

import multiprocessing
import os
from pathlib import Path

import pytest
import yaml
from conftest import FAST, cold, main

import config
from utils.files import lock, write_csv
from utils.runs import compare, prune
from utils.runs.table import find_runs, table

DIFF = "diff --git a/main.py b/main.py\n-old\n+{}\n"


def make(folder, name, accuracies=(50.0,), state="finished", diff=None, **options):
    """A run's folder: config.yaml, results.csv, the lock, and files of a known size."""
    run = Path(folder, name)
    run.mkdir(parents=True)
    start = {"command": ["main.py"], "git_commit": "0123456789", "git_dirty": bool(diff)}
    record = {**config.DefaultConfig().values(), "model": "resnet18", "seed": 1, **options, "run": [start]}
    (run / "config.yaml").write_text(yaml.safe_dump(record))
    rows = [[n, n * 10, 1 / n, value, 100.0] for n, value in enumerate(accuracies, 1)]
    if rows:
        write_csv(run / "results.csv", ["epoch", "step", "loss", "val_accuracy", "seconds"], rows)
    (run / "lock").write_text(state)
    if diff:
        (run / "source_1.diff").write_text(DIFF.format(diff))
    for file in ("last.pth", "previous.pth", "best.pth", "epoch_001.pth"):
        (run / file).write_bytes(b"0" * 1_000_000)
    return run


def lines(done):
    return [line.split() for line in done.stdout.splitlines()]


@pytest.fixture
def work(tmp_path):
    make(tmp_path, "poor", [60.0, 70.0, 65.0], lr=0.01)
    make(tmp_path, "good", [80.0, 90.0], lr=0.1, optimizer_options={"a": 1})
    make(tmp_path, "begun", (), "unfinished", monitor="val_loss")
    make(tmp_path, "broken", (), "failed")
    (tmp_path / "no run").mkdir()
    return tmp_path


def test_all_runs_are_in_one_table_the_best_first_with_what_differs(work):
    done = main("runs", f"--work-dir={work}", "--max-epoch=3", cwd=work)
    assert done.returncode == 2 and "runs does not read --max-epoch" in done.stderr
    table = main("runs", f"--work-dir={work}", cwd=work, check=0).stdout.splitlines()
    assert [line.split()[0] for line in table[:5]] == ["run", "good", "poor", "broken", "begun"]
    assert table[1].split("  ")[-1].strip() == "--optimizer-options=a=1 --lr=0.1"
    cells = table[2].split()
    assert cells[1:3] == ["finished", "3/10"] and cells[3:6] == ["val_accuracy", "70", "2"]
    assert " 5 min 00 s " in table[2] and " 4.0 MB " in table[2] and " 0123456 " in table[2]
    assert table[3].split()[1:3] == ["failed", "0/10"] and table[4].split()[-1] == "--monitor=val_loss"
    assert "resnet18" not in "".join(table), "all of them are of that model"
    assert table[-1] == "4 runs, 16.0 MB"


def test_a_run_of_before_has_todays_names_of_the_options(tmp_path):
    make(tmp_path, "new", [70.0])
    make(tmp_path, "old", [60.0], crop_min_scale=0.5)
    file = tmp_path / "old" / "config.yaml"
    file.write_text(file.read_text().replace("crop_min_scale", "min_crop").replace("random_erasing", "erase"))
    text = main("runs", f"--work-dir={tmp_path}", cwd=tmp_path, check=0).stdout
    assert "--crop-min-scale=0.5" in text and "min-crop" not in text and "eras" not in text


def test_runs_on_other_data_stand_apart_and_another_monitor_does_not_hide_the_accuracy(tmp_path):
    long = f"/home/a/{'deep/' * 40}weights.pth"
    make(tmp_path, "one", [60.0], train_data_root=["data/a"], pretrained=f"{long}  # sha256 00ff, from here, MIT")
    make(tmp_path, "two", [90.0], train_data_root=["data/b"])
    make(tmp_path, "three", [70.0, 80.0], train_data_root=["data/a"], monitor="loss")
    make(tmp_path, "four", [65.0], train_data_root=["data/a"])
    text = table(find_runs(tmp_path), config.load({}, command="runs"))
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["three", "four", "one", "two"]
    assert "loss 0.5 (val_accuracy 80)" in lines[1] and "--train-data-root=data/b" in lines[4]
    assert "sha256" not in text and "deep/weights.pth" in lines[3] and max(map(len, lines)) < 220
    assert lines[-2] == "runs on the same data stand together; results on other data cannot be compared"


def test_a_run_of_which_files_are_lost_or_damaged_is_a_line_like_the_others(work):
    (work / "good" / "config.yaml").write_text("{")
    (work / "poor" / "results.csv").write_bytes(b"epoch,val_accuracy\n1,\xff\n2,nan\nx,3\n")
    (work / "begun" / "lock").unlink()
    table = main("runs", f"--work-dir={work}", cwd=work, check=0).stdout.splitlines()
    found = {line.split()[0]: line.split() for line in table[1:5]}
    assert found["good"][2:5] == ["2/?", "val_accuracy", "90"] and found["poor"][2] == "2/10"
    assert found["begun"][1] == "unfinished"


def test_where_there_is_no_run_one_line_says_so(tmp_path):
    done = main("runs", f"--work-dir={tmp_path}", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith(f"main.py: {tmp_path} holds no run")
    make(tmp_path, "SqueezeNet_1", ())
    done = main("runs", f"--work-dir={tmp_path}", "--compare=SqueezNet_1,x", cwd=tmp_path)
    assert done.returncode == 2 and "did you mean SqueezeNet_1?" in done.stderr


def test_a_running_one_is_called_so_and_nothing_of_it_goes(work):
    started, end = multiprocessing.get_context("fork").Event(), multiprocessing.get_context("fork").Event()

    def hold():
        with open(work / "poor" / "lock", "r+") as file:
            assert lock(file)
            started.set()
            end.wait()

    process = multiprocessing.get_context("fork").Process(target=hold)
    process.start()
    started.wait()
    try:
        assert ["poor", "running"] in [cells[:2] for cells in lines(main("runs", f"--work-dir={work}", cwd=work))]
        said = main("runs", f"--work-dir={work}", "--prune=last,previous", "--yes", cwd=work, check=0)
        assert "good" in said.stdout and "poor" not in said.stdout + said.stderr
    finally:
        end.set()
        process.join()
    assert {path.name for path in (work / "poor").glob("*.pth")} >= {"last.pth", "previous.pth"}
    assert not (work / "good" / "last.pth").exists() and (work / "good" / "best.pth").exists()
    assert (work / "begun" / "last.pth").exists(), "it needs that to be resumed"


def test_what_may_go_is_listed_with_its_size_and_goes_with_yes_alone(work):
    (work / "packs").mkdir()
    for name in ("a.u8", "a.json", "mine.json"):
        (work / "packs" / name).write_bytes(b"0" * 500_000)
    prune = ["runs", f"--work-dir={work}", f"--pack-dir={work / 'packs'}", "--prune=epochs,failed,packs"]
    before = sorted(work.rglob("*"))
    said = main(*prune, cwd=work, check=0).stdout
    assert sorted(work.rglob("*")) == before
    assert said.splitlines()[-1] == "7 files and folders, 9.0 MB in all: --yes deletes them"
    assert f"1.0 MB  {work / 'good' / 'epoch_001.pth'}" in said and f"4.0 MB  {work / 'broken'}\n" in said
    assert "--yes needs --prune" in main("runs", "--yes", cwd=work, check=2).stderr
    assert main(*prune, "--yes", cwd=work, check=0).stdout.splitlines()[-1].startswith("deleted: ")
    assert not (work / "broken").exists() and not list(work.rglob("epoch_*"))
    assert [path.name for path in (work / "packs").iterdir()] == ["mine.json"]


def test_compared_runs_show_their_curves_options_and_code(tmp_path):
    make(tmp_path, "one", [50.0, 60.0], lr=0.01, diff="first")
    make(tmp_path, "two", [55.0, 45.0], lr=0.1, diff="second", vis_port=1)
    done = main("runs", f"--work-dir={tmp_path}", "--compare=one,two", cwd=tmp_path, check=0, drawn=True)
    cells = lines(done)
    assert ["--lr", "0.01", "0.1"] in cells and ["--vis-port", "8097", "1"] in cells
    assert ["best", "val_accuracy", "60", "val_accuracy", "55"] in cells and "--model" not in done.stdout
    assert "-+first" in done.stdout.splitlines() and "++second" in done.stdout.splitlines()
    assert (tmp_path / "compare.png").stat().st_size > 5000
    done = main("runs", f"--work-dir={tmp_path}", "--compare=one", cwd=tmp_path)
    assert done.returncode == 2 and "two runs or more" in done.stderr


def test_runs_of_real_trainings_are_read_without_torch(tmp_path, pictures):
    fast = [option for option in FAST if not option.startswith("--model")]
    for name in ("SqueezeNet", "resnet18"):
        options = [f"--train-data-root={pictures}", *fast, f"--model={name}", "--max-epoch=1"]
        main("train", *options, cwd=tmp_path, check=0)
    done = cold("runs", cwd=tmp_path, check=0, env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"})
    assert " yaml" in done.stderr and " torch" not in done.stderr
    table = done.stdout.splitlines()
    assert {line.partition("_")[0] for line in table[1:3]} == {"SqueezeNet", "resnet18"}
    assert all(" finished " in line and " 1/1 " in line for line in table[1:3])
    assert sum("--model=resnet18" in line for line in table) == 1


def test_runs_that_differ_in_the_seed_alone_have_a_mean_and_a_standard_deviation(tmp_path):
    for seed, accuracy in ((1, 80.0), (2, 82.0), (3, 87.0)):
        make(tmp_path, f"same_{seed}", [70.0, accuracy], seed=seed, num_workers=seed)
    make(tmp_path, "again", [10.0], seed=3)  # a seed counts once, its last run
    make(tmp_path, "stopped", [50.0], "unfinished", seed=4)
    make(tmp_path, "other_rate", [60.0], seed=5, lr=0.5)
    make(tmp_path, "other_code", [60.0], seed=6, diff="x")
    make(tmp_path, "longer", [60.0], seed=7, max_epoch=99)
    make(tmp_path, "other_data", [60.0], seed=8, train_data_root=["elsewhere"])
    runs = find_runs(str(tmp_path), [path.name for path in tmp_path.iterdir() if path.name != "again"])
    (line,) = compare.over_seeds(sorted(runs), config.DefaultConfig())
    assert line == "best val_accuracy over the seeds 1, 2, 3: 83 ± 3.6 (mean ± standard deviation, n = 3)\n"
    (line,) = compare.over_seeds([*sorted(runs), *find_runs(str(tmp_path), ["again"])], config.DefaultConfig())
    assert line.endswith(" 57.33 ± 41 (mean ± standard deviation, n = 3)\n")
    names = "--compare=same_1,same_2,other_rate"
    printed = main("runs", f"--work-dir={tmp_path}", names, cwd=tmp_path, check=0).stdout
    assert "best val_accuracy over the seeds 1, 2: 81 ± 1.4 (mean ± standard deviation, n = 2)\n" in printed


def test_what_could_not_be_deleted_is_not_counted_and_the_exit_code_says_so(work, monkeypatch, capsys):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    assert prune.show(config.load({"work_dir": str(work), "prune": "last", "yes": True}, command="runs")) == 1
    told = capsys.readouterr()
    assert told.out.splitlines()[-1] == "deleted: 0 files and folders, 0.0 MB; 2 stay"
    assert told.err.count("last.pth stays: Permission denied") == 2
    monkeypatch.undo()
    assert prune.show(config.load({"work_dir": str(work), "prune": "last", "yes": True}, command="runs")) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "deleted: 2 files and folders, 2.0 MB"
