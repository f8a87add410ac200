"""What is kept about a run besides its weights."""

import os
import subprocess
from types import SimpleNamespace

import pytest

import config
from data import VOC
from data.pictures.files import PictureFiles
from main import evaluate
from utils.run import record
from utils.run.record import Results
from utils.run.run import Run, new_folder


def test_columns_that_were_written_stay(tmp_path):
    results = Results(tmp_path)
    results.add({"epoch": 1, "loss": 1.0, "loss_a": 0.5})
    rows = results.add({"epoch": 2, "loss": 2.0})
    assert (tmp_path / "results.csv").read_text().split() == ["epoch,loss,loss_a", "1,1.0,0.5", "2,2.0,"]
    assert [row["loss"] for row in rows] == ["1.0", "2.0"]


def git(folder, *arguments):
    own = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *own, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_record_has_the_commit_and_the_diff_that_makes_the_code_from_it(tmp_path, monkeypatch):
    code, diff, other = tmp_path / "code", tmp_path / "source_1.diff", tmp_path / "other"
    code.mkdir()
    monkeypatch.setattr(record, "ROOT", code)
    assert record.source_version(diff) == {"git_commit": None, "git_dirty": None} and not diff.exists()
    git(code, "init", "--quiet")
    contents = {"main.py": "old = 1\n", "gone.py": "gone\n", "same.py": "same\n"}
    for name, text in contents.items():
        (code / name).write_text(text)
    git(code, "add", ".")
    git(code, "commit", "--quiet", "--message=one")
    commit = git(code, "rev-parse", "HEAD")
    assert record.source_version(diff) == {"git_commit": commit, "git_dirty": False} and not diff.exists()

    git(tmp_path, "clone", "--quiet", str(code), str(other))
    (code / "main.py").write_text("new = 2\n")
    (code / "gone.py").unlink()
    (code / "new.py").write_text("added\n")
    (code / "notes.txt").write_text("no code\n")
    assert record.source_version(diff) == {"git_commit": commit, "git_dirty": True}
    git(other, "apply", str(diff))
    made = {path.name: path.read_text() for path in other.iterdir() if path.is_file()}
    assert made == {"main.py": "new = 2\n", "same.py": "same\n", "new.py": "added\n"}


def test_code_that_was_changed_since_a_runs_start_is_named(tmp_path, monkeypatch):
    code, run = tmp_path / "code", Run(new_folder(str(tmp_path / "runs"), "Net"))
    (code / "models").mkdir(parents=True)
    monkeypatch.setattr(record, "ROOT", code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record.own, "files", {"my_loss": tmp_path / "my_loss.py"})
    for name in ("main.py", "models/net.py", "models/new.py"):
        (code / name).write_text("one = 1\n")
    (tmp_path / "my_loss.py").write_text("loss = 1\n")
    git(code, "init", "--quiet")
    git(code, "add", "main.py", "models/net.py")
    git(code, "commit", "--quiet", "--message=one")
    (code / "main.py").write_text("two = 2\n")  # before the run starts, like models/new.py
    record.write_config(run, {})
    assert record.changed_code(run.folder) == ""
    git(code, "add", ".")
    git(code, "commit", "--quiet", "--message=two")
    assert record.changed_code(run.folder) == "", "the same code, though there is another commit"
    (code / "models/net.py").write_text("three = 3\n")
    (tmp_path / "my_loss.py").write_text("loss = 2\n")
    copy = run.folder / "source_1_my_loss.py"
    assert record.changed_code(run.folder) == f"models/net.py, my_loss.py (it was {copy})"
    git(code, "commit", "--quiet", "--all", "--message=three")
    assert record.changed_code(run.folder).startswith("models/net.py, ")
    record.write_config(run, {})  # resumed
    assert record.changed_code(run.folder) == ""
    (code / "main.py").unlink()
    assert record.changed_code(run.folder) == "main.py"
    (run.folder / "config.yaml").unlink()
    assert record.changed_code(run.folder) == "", "nothing is on record"


def test_an_epoch_that_is_repeated_replaces_its_row_and_a_resumed_run_adds_to_the_table(tmp_path):
    results = Results(tmp_path)
    for epoch in (1, 2):
        results.add({"epoch": epoch, "loss": 1.0 / epoch})
    assert [row["loss"] for row in Results(tmp_path).add({"epoch": 2, "loss": 0.25})] == ["1.0", "0.25"]
    Results(tmp_path).add({"epoch": 3, "loss": 0.125})
    assert (tmp_path / "results.csv").read_text().split() == ["epoch,loss", "1,1.0", "2,0.25", "3,0.125"]


def test_a_table_that_was_lost_is_a_warning(tmp_path, capsys):
    assert [row["epoch"] for row in Results(tmp_path).add({"epoch": 4, "loss": 1.0})] == ["4"]
    assert capsys.readouterr().err == f"warning: {tmp_path / 'results.csv'} has lost the rows before epoch 4\n"


def test_a_report_with_another_preparation_does_not_replace_the_usual_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    then = {"config": {"image_size": 32, "center_crop": 1.0, "batch_size": 8}}

    def folder(**given):
        opt = config.load({"load_model_path": "best.pth", "image_size": 32, "batch_size": 2, **given}, None, "val")
        return record.open_report(opt, range(3), then)[0].name

    assert [folder(), folder(center_crop=0.9), folder(image_size=64)] == [
        "best_report",
        "best_report_2",
        "best_report_3",
    ]
    assert [folder(center_crop=0.9), folder()] == ["best_report_2", "best_report"]
    assert folder(tta="flip") == folder(tta="flip") == "best_report_4" and folder() == "best_report"


def test_a_report_on_several_models_lies_in_their_folder_or_beside_the_first_or_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folds" / "one").mkdir(parents=True)

    def report(name, *files):
        opt = config.load({"load_model_path": name}, None, "val")
        return str(record.open_report(opt, range(3), {"members": dict.fromkeys(files, {})})[0])

    files = "folds/one/best.pth", "folds/two/best.pth"
    assert report("folds", *files) == report("folds", *files) == "folds/average_report"
    (tmp_path / "folds").rename(tmp_path / "moved")
    assert report("moved", *files) == "moved/average_report", "the report on these models is replaced"
    (tmp_path / "moved").rename(tmp_path / "folds")
    for other, place in (("x.pth", "folds/one/average_report"), ("y.pth", "folds/one/average_report_2")):
        assert report(f"{files[0]},{other}", files[0], other) == place, "the mean of others is another one"
    assert report(files[0], files[0]) == "folds/one/best_report", "several views of one"
    assert report("gone/a.pth,b.pth", "gone/a.pth", "b.pth") == "average_report", "that cannot be written"


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, for another user's folder")
def test_a_report_is_never_written_into_another_users_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    opt = config.load({"load_model_path": "best.pth", "dataset": "Demo", "train_data_root": str(tmp_path)}, None, "val")
    folder, data = record.open_report(opt, range(3), {})
    assert folder.name == "best_report" and record.open_report(opt, range(3), {})[0] == folder, (
        "the same data: it is replaced"
    )
    os.chown(folder, 65534, 65534)
    assert record.open_report(opt, range(3), {})[0].name == "best_report_2"
    opt.load_model_path = "https://example.org/best.pth"  # beside that nothing can be written
    assert record.open_report(opt, range(3), {})[0].name == "best_report_3", "another checkpoint's report stays"
    assert record.open_report(opt, range(3), {})[0].name == "best_report_3", "its own is replaced"
    assert "the report is in best_report_3 (--report-dir names another)" in capsys.readouterr().out


def test_samples_that_a_checkpoint_was_trained_on_are_named_where_its_options_prove_it(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    here, absolute = tmp_path / "runs" / "x" / "best.pth", str(tmp_path / "a")

    def seen(now, then, path=here, data=PictureFiles, dataset="DogCat"):
        train, val = (value.split() for value in now)
        opt = SimpleNamespace(
            load_model_path=str(path), dataset=dataset, train_data_root=train, val_data_root=val, image_size=32
        )
        options = {"work_dir": "runs", "dataset": "DogCat"}
        options |= dict(zip(("train_data_root", "val_data_root"), (value.split() for value in then), strict=True))
        assert not record.trained_on(opt, data.__new__(data), {"members": {"a": {}, "b": {}}})
        info = {"config": options}
        of_mean = record.trained_on(opt, data.__new__(data), {"config": {}, "members": {"a": {}, str(path): info}})
        assert of_mean == record.trained_on(opt, data.__new__(data), info), "each member by its own file and options"
        return of_mean

    assert seen(("b", "a"), ("a", "")) == "a", "all of what 70 % were trained on"
    assert seen(("a b", ""), ("a", "v")) == "a", "30 % of what all were trained on"
    assert seen(("b", "v ./a/"), ("a", "v")) == "./a/"
    assert seen(("a", ""), ("a", "")) == "", "its own 30 %"
    assert seen(("a", "v"), ("a", "v")) == seen(("b", "v"), ("a", "")) == ""
    elsewhere = tmp_path / "copies" / "best.pth"
    assert seen(("b", "a"), ("a", ""), elsewhere) == "", "of another folder than this one, perhaps"
    assert seen(("b", "a"), (absolute, ""), elsewhere) == "a"
    assert seen(("b", "a"), ("a", ""), data=VOC) == "", "its lists may divide the folder"
    assert seen(("b", "a"), ("a", ""), dataset="ImageFolder") == ""


def test_a_report_on_samples_that_were_trained_on_says_so(trained, capsys, monkeypatch, tmp_path):
    folder, run, _ = trained
    monkeypatch.chdir(folder)
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *_, **__: None)
    (root,) = config.load({"config": str(run / "config.yaml")}).train_data_root
    evaluate(val_data_root=root, report_dir=str(tmp_path / "report"))
    assert f"note: the model was trained on samples that are measured here, of {root}: " in capsys.readouterr().out
    assert f"trained_on: {root}\n" in (tmp_path / "report" / "about.yaml").read_text()
