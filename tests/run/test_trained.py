"""Which trained model val and test take, what they say about it, and where a report goes."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import FAST, draw_folder, main, server
from disks import mounted, needs_root
from drawn import trees
from runs import only_run, rows

import config
import models
from utils import UserError
from utils.files import lock
from utils.run import record, resume
from utils.run.checkpoint_file import read_checkpoint
from utils.run.resume import classes_of
from utils.run.run import Run


@pytest.fixture
def two(trained, tmp_path):
    """A folder with copies of one run: `older`, and `newer` with a report."""
    _, run, _ = trained
    for number, name in enumerate(("older", "newer")):
        copy = shutil.copytree(run, tmp_path / "checkpoints" / name)
        shutil.rmtree(copy / "best_report", ignore_errors=True)  # other tests measure this run, too
        os.utime(copy / "best.pth", (1e9 + number, 1e9 + number))
    return tmp_path


def used(done):
    """The checkpoint that a command says it uses."""
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("using ")]
    return line


def test_without_a_name_it_is_the_newest_and_the_others_are_named(two):
    line = used(main("val", cwd=two, check=0))
    assert line.startswith("using checkpoints/newer/best.pth, epoch ")
    assert line.endswith("; it is the newest of 2 models, --run= takes another one: older")
    shown = main("val", "--draw-freq=3", cwd=two, check=0).stdout
    assert "  load_model_path: checkpoints/newer/best.pth  (found)\n" in shown and "  lr: " not in shown
    assert "  draw_freq: 3  (given)\n" in shown and "  image_size: 32  (of the run)\n" in shown


@pytest.mark.parametrize("option", ["--run=older", "--run=checkpoints/older", "--load-model-path=older"], ids=str)
def test_a_run_or_its_folder_means_its_best_model(option, two):
    assert used(main("val", option, cwd=two, check=0)).startswith("using checkpoints/older/best.pth, epoch ")
    assert (two / "checkpoints" / "older" / "best_report" / "about.yaml").exists()
    assert not (two / "checkpoints" / "newer" / "best_report").exists()


def test_what_names_no_model_is_one_line(two):
    (two / "checkpoints" / "begun").mkdir()
    (two / "checkpoints" / "begun" / "lock").touch()
    for options, message in {
        ("--run=begun",): "--run=begun: it has finished no epoch: --resume=begun continues it",
        ("--run=oldr",): "--run=oldr: no such run with a best.pth, also not in checkpoints; did you mean older?",
        ("--run=older", "--load-model-path=x"): "--run and --load-model-path both name a model: give one of them",
        (
            "--run=x",
        ): "--run=x: no such run with a best.pth, also not in checkpoints; `runs --work-dir=checkpoints` lists",
        ("--load-model-path=checkpoints",): "checkpoints is a folder of runs, name one: checkpoints/newer",
        ("--load-model-path=.",): "checkpoint best.pth cannot be read: No such file",
    }.items():
        done = main("test", *options, cwd=two, check=2)
        assert message in done.stderr and "Traceback" not in done.stderr


def test_a_training_starts_from_a_runs_folder_too(two, pictures):
    options = [f"--train-data-root={pictures}", *FAST, "--max-epoch=1", "--load-model-path=checkpoints/older"]
    said = main("train", *options, cwd=two, check=0).stdout
    assert "load_model_path: checkpoints/older/best.pth  (found for checkpoints/older)\n" in said


def test_a_report_names_its_data_and_does_not_replace_one_on_other_data(two, tmp_path):
    other = trees(tmp_path / "other", cat=3, dog=4)
    report = two / "checkpoints" / "newer" / "best_report"
    main("val", cwd=two, check=0)
    about = yaml.safe_load((report / "about.yaml").read_text())
    assert about["checkpoint"] == str(report.with_name("best.pth"))
    assert about["samples"] == 12 and about["image_size"] == 32
    before = (report / "measures.csv").read_text()
    options = ["--dataset=ImageFolder", f"--val-data-root={other}"]
    done = main("val", *options, cwd=two, check=0)
    assert f"on 7 samples, ImageFolder of {other}:" in done.stdout
    assert "report: checkpoints/newer/best_report_2" in done.stdout
    second = report.with_name("best_report_2")
    assert yaml.safe_load((second / "about.yaml").read_text())["data"] == f"ImageFolder of {other}"
    assert (report / "measures.csv").read_text() == before
    main("val", *options, cwd=two, check=0)  # the same data again: its own report is replaced
    main("val", "--report-dir=elsewhere/mine", cwd=two, check=0)
    assert sorted(path.name for path in report.parent.glob("best_report*")) == ["best_report", "best_report_2"]
    assert "best_report_3" in main("val", "--val-size=5", cwd=two, check=0).stdout, "the same folder, other samples"
    assert (two / "elsewhere" / "mine" / "measures.csv").exists()


def test_in_a_place_that_is_read_only_the_measures_are_printed_and_the_report_lies_here(two):
    needs_root(two)
    disk, files = two / "disk", (two / "stdout", two / "stderr")
    disk.mkdir()
    first = (
        mounted(disk, 1 << 24)
        + f"""
import ctypes, shutil
shutil.copy({str(two / "checkpoints" / "newer" / "best.pth")!r}, {str(disk)!r})
assert not ctypes.CDLL(None).mount(None, {os.fsencode(disk)!r}, None, 32 | 1, None)  # MS_REMOUNT, MS_RDONLY
"""
    )
    assert server().run("val", "--load-model-path=disk/best.pth", cwd=two, first=first, files=files) == 0
    assert "val_accuracy: " in files[0].read_text() and "report: best_report\n" in files[0].read_text()
    assert (two / "best_report" / "measures.csv").exists() and not list(disk.iterdir())
    done = main("val", "--report-dir=/proc/mine", cwd=two, check=2)
    assert done.stderr == "main.py: /proc/mine cannot be written: name another folder with --report-dir\n"


def test_other_data_is_measured_where_the_training_data_is_gone(tmp_path):
    draw_folder(tmp_path / "train", per_class=5)
    main("train", "--train-data-root=train", *FAST, "--max-epoch=1", cwd=tmp_path, check=0)
    draw_folder(tmp_path / "new", per_class=3)
    shutil.rmtree(tmp_path / "train")
    done = main("val", "--val-data-root=new", cwd=tmp_path, check=0)
    assert "on 6 samples, DogCat of new:" in done.stdout


def test_resume_auto_begins_a_run_or_continues_the_one_that_was_stopped(tmp_path, pictures):
    script = ["train", f"--train-data-root={pictures}", *FAST, "--lr=0.002", "--config=Short", "--resume=auto"]
    preset = "import config\nclass Short(config.DefaultConfig):\n    max_epoch = 2\n"
    fails = "from utils.run.run import Run\nold = Run.advance\n"
    fails += "Run.advance = lambda self: old(self) or self.step < 3 or 1 / 0\n"
    server().run(*script, cwd=tmp_path, first=preset + fails)
    run = only_run(tmp_path)
    assert not (run / "results.csv").exists()
    files = (tmp_path / "stdout", tmp_path / "stderr")
    assert server().run(*script, cwd=tmp_path, first=preset, files=files) == 0, files[1].read_text()
    assert f"resuming checkpoints/{run.name} after" in files[0].read_text()
    assert only_run(tmp_path) == run and [row["epoch"] for row in rows(run)] == ["1", "2"]
    assert server().run(*script, cwd=tmp_path, first=preset) == 0  # nothing is unfinished: a new run
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_a_finished_run_keeps_what_it_is_told_to(tmp_path, pictures):
    options = [f"--train-data-root={pictures}", *FAST, "--max-epoch=1", "--keep-optimizer=False"]
    main("train", *options, cwd=tmp_path, check=0)
    run = only_run(tmp_path)
    assert [path.name for path in run.glob("*.pth")] == ["best.pth"]
    done = main("train", f"--resume={run}", "--max-epoch=2", cwd=tmp_path, check=2)
    assert "no such run (a folder with config.yaml and last.pth or previous.pth)" in done.stderr
    assert "val_accuracy: " in main("val", cwd=tmp_path, check=0).stdout


def test_a_report_on_a_checkpoint_from_an_address_lies_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opt = config.load({"load_model_path": "https://example.org/models/resnet18.pth"}, command="val")
    folder, about = record.open_report(opt, range(7), {})
    assert (folder, about) == (Path("resnet18_report"), "DogCat") and [*tmp_path.iterdir()] == [tmp_path / folder]


def test_of_two_that_resume_at_once_one_does_and_the_other_begins_a_run_or_names_it(trained, pictures, tmp_path):
    _, run, _ = trained
    copy = shutil.copytree(run, tmp_path / "checkpoints" / run.name)
    (copy / "lock").write_text("unfinished")
    two = """
import atexit, os
def end():
    open("code", "w").write(str(os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])))
if other := os.fork():
    atexit.register(end)
"""
    command = ["train", f"--train-data-root={pictures}", *FAST, "--max-epoch=3", "--resume=auto"]
    codes = [server().run(*command, cwd=tmp_path, first=two), int((tmp_path / "code").read_text())]
    said = (tmp_path / "output").read_text()
    assert sorted(codes) in ([0, 0], [0, 2]), said
    assert codes.count(2) == said.count(f"{copy.name} is being trained by another process: wait for it"), said
    assert [row["epoch"] for row in rows(copy)] == ["1", "2", "3"] and (copy / "lock").read_text() == "finished"
    assert all(len(rows(other)) > 0 for other in (tmp_path / "checkpoints").iterdir())


def test_a_lock_that_somebody_has_for_a_moment_is_waited_for(tmp_path, monkeypatch, capsys):
    (tmp_path / "run").mkdir()
    ask, tell = os.pipe()
    ready, locked = os.pipe()
    if not (pid := os.fork()):  # looks whether the run is unfinished, as --resume does
        with open(tmp_path / "run" / "lock", "a+") as file:
            lock(file)
            os.write(locked, b"1")
            os.read(ask, 1)
        os._exit(0)
    os.read(ready, 1)

    def release(_):
        os.write(tell, b"1")
        os.waitpid(pid, 0)

    monkeypatch.setattr("utils.run.run.time.sleep", release)
    Run(tmp_path / "run").close()


def test_auto_names_the_run_that_another_process_trains_and_begins_one(tmp_path, monkeypatch, capsys):
    (tmp_path / "a").mkdir()
    for file in ("lock", "last.pth"):
        (tmp_path / "a" / file).touch()
    monkeypatch.setattr("utils.run.resume.lock", lambda file: False)
    assert resume.find_run(str(tmp_path), "auto") is None
    said = capsys.readouterr().out
    assert said == f"note: a in {tmp_path} is being trained by another process: a new run begins\n"


def test_a_model_that_was_loaded_and_saved_keeps_its_classes_and_options(tmp_path):
    model = models.SqueezeNet(num_classes=2)
    model.info = {"classes": ["rose", "tulip"], "config": {"image_size": 32}, "origin": "here"}
    model.save(tmp_path / "one.pth")
    other = models.SqueezeNet(num_classes=2)
    other.load(tmp_path / "one.pth")
    other.save(tmp_path / "two.pth")
    assert read_checkpoint(tmp_path / "two.pth")["info"] == model.info
    body = models.SqueezeNet(num_classes=3)
    body.load(tmp_path / "one.pth", partly=True)
    assert body.info == {"origin": "here"}, "its head is another one"


def test_what_a_file_does_not_say_of_its_model_is_named(capsys):
    opt = config.load({"load_model_path": "a.pth", "image_size": 32}, command="val")
    assert classes_of(opt, {"classes": ["b", "a"], "config": {"lr": 1}}, ("cat", "dog")) == ["b", "a"]
    assert capsys.readouterr().out == ""
    assert classes_of(opt, {}, ("cat", "dog")) == ("cat", "dog")
    taken = "a.pth does not say all that it was trained with; taken for granted: classes cat, dog; --dataset=DogCat\n"
    assert capsys.readouterr().out == f"note: {taken}"
    with pytest.raises(UserError, match="a.pth names no classes, and --dataset=DogCat has none of its own"):
        classes_of(opt, {}, ())
