"""Through the real command line: what a run leaves behind, val and test from a checkpoint, and resuming a run."""

import csv
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import FAST, NO_SERVER, draw_folder, main, server
from picture_kinds import KINDS, REASONS, broken_kinds
from PIL import Image
from runs import differences, events, only_run, rows, state
from terminal import Forked

import config
import main as program
from benchmarks.faults_signals import NO_REPORTS
from data import DogCat
from main import val
from models import ResNet34
from utils import UserError
from utils.run import resume
from utils.run.checkpoint_file import read_checkpoint
from utils.run.run import Run
from utils.train.loader import make_loader


def test_a_run_leaves_its_folder(trained):
    cwd, run, printed = trained
    assert run.name.startswith("SqueezeNet_") and ":" not in run.name
    names = {path.name for path in run.iterdir()} - {"source_1.diff", "lock"}
    pictures = {"curves.png", "confusion.png", "roc.png", "pr.png", "threshold.png", "train_batch_0.png"}
    tables = {"results.csv", "confusion.csv", "report.csv", "measures.csv"}
    names -= {"mistakes.csv", "mistakes.png"}  # where there are any
    files = {"config.yaml", "last.pth", "best.pth", "events.jsonl", "index.html"}  # previous.pth: not of a finished run
    assert names == files | tables | pictures
    for name in pictures:
        assert Image.open(run / name).size[0] > 200
    assert [row["epoch"] for row in rows(run)] == ["1", "2"]
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["batch_size"] == 4 and len(saved["run"]) == 1 and saved["run"][0]["command"][1] == "train"
    assert saved["run"][0]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {"git_commit", "git_dirty"} <= saved["run"][0].keys()
    plotted = {event["name"] for event in events(run) if event["kind"] == "plot"}
    assert {"val_accuracy", "train_accuracy", "lr"} <= plotted
    assert printed.count("epoch 2/2: ") == 1
    with open(run / "confusion.csv", newline="") as file:
        matrix = list(csv.reader(file))
    assert matrix[0][1:] == ["cat", "dog"] and sum(int(n) for row in matrix[1:] for n in row[1:]) == 12


def test_the_saved_config_can_be_passed_back_and_repeats_the_run_bit_by_bit(trained, tmp_path):
    _, run, _ = trained
    main("train", f"--config={run / 'config.yaml'}", cwd=tmp_path, check=0)
    assert differences(state(run), state(only_run(tmp_path))) == []
    timeless = [{name: value for name, value in row.items() if "seconds" not in name} for row in rows(run)]
    assert timeless == [{name: row[name] for name in timeless[0]} for row in rows(only_run(tmp_path))]


def test_val_and_test_need_no_more_than_a_checkpoint(trained, unlabelled, tmp_path):
    cwd, run, _ = trained
    done = main("val", cwd=cwd, check=0)
    accuracy = max(float(row["val_accuracy"]) for row in rows(run))
    assert f"using checkpoints/{run.name}/best.pth" in done.stdout and f"val_accuracy: {accuracy:.4g}" in done.stdout
    shutil.copy(run / "best.pth", tmp_path / "alone.pth")
    options = ["--load-model-path=alone.pth", f"--test-data-root={unlabelled}", "--result-file=out.csv"]
    main("test", *options, cwd=tmp_path, check=0)
    with open(tmp_path / "out.csv", newline="") as file:
        results = list(csv.DictReader(file))
    assert [int(row["id"]) for row in results] == list(range(1, 13))
    assert all(0 < float(row["label"]) < 1 for row in results)
    assert len({row["label"] for row in results}) > 1


def test_val_and_test_have_their_model_in_eval_mode(trained):
    _, run, _ = trained
    _, model, _ = program.load_trained(config.load({"load_model_path": str(run / "best.pth")}))
    assert not any(module.training for module in model.modules())


def test_a_checkpoint_of_another_model_or_a_damaged_one_is_one_line(trained, tmp_path):
    cwd, run, _ = trained
    (tmp_path / "cut.pth").write_bytes((run / "best.pth").read_bytes()[:1000])
    for command, message in {
        ("val", "--model=ResNet34"): "holds a SqueezeNet, not a ResNet34: give --model=SqueezeNet",
        ("test", f"--load-model-path={tmp_path / 'cut.pth'}"): "is not a whole checkpoint",
        ("test", "--result-file=/nowhere/result.csv"): "/nowhere/result.csv cannot be written",
        ("test", "--test-data-root=nowhere"): "--test-data-root: there is no folder nowhere: give another",
    }.items():
        done = main(*command, cwd=cwd)
        assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_val_returns_meter_and_accuracy_and_restores_the_mode(pictures):
    """FEATURES.md 2 and 59, as a unit."""
    loader = make_loader(DogCat(pictures, "val", image_size=32), batch_size=5, num_workers=0)
    model = ResNet34()
    seen = []
    model.register_forward_hook(lambda module, input, output: seen.append(module.training))
    for training in (True, False):
        model.train(training)
        meter, accuracy = val(model, loader)
        assert model.training is training and not any(seen)
        matrix = meter.value()
        assert matrix.sum() == 12 and accuracy == 100 * np.trace(matrix) / 12


def test_training_learns_and_best_follows_the_monitor(tmp_path, pictures):
    arguments = [f"--train-data-root={pictures}", *FAST, "--max-epoch=6", "--keep-last=2", "--lr=3e-4"]
    main("train", *arguments, "--monitor=loss", cwd=tmp_path, check=0)
    run = only_run(tmp_path)
    losses = [float(row["loss"]) for row in rows(run)]
    assert float(rows(run)[-1]["val_accuracy"]) > 80  # reddish against bluish
    assert read_checkpoint(run / "best.pth")["metrics"]["loss"] == min(losses)
    assert sorted(path.name for path in run.glob("epoch_*.pth")) == ["epoch_005.pth", "epoch_006.pth"]
    assert read_checkpoint(run / "epoch_005.pth")["metrics"]["epoch"] == 5


def test_no_workers_or_two_give_the_same_bits(trained, tmp_path):
    _, run, _ = trained
    main("train", f"--config={run / 'config.yaml'}", "--num-workers=2", cwd=tmp_path, check=0)
    assert differences(state(run), state(only_run(tmp_path))) == []


def test_fine_tuning_starts_from_a_checkpoint_and_leaves_its_body_alone(trained, tmp_path, pictures):
    _, run, _ = trained
    options = [f"--load-model-path={run / 'best.pth'}", "--finetune", "--max-epoch=1", f"--train-data-root={pictures}"]
    main("train", *FAST, *options, cwd=tmp_path, check=0)
    before, after = (read_checkpoint(path)["weights"] for path in (run / "best.pth", only_run(tmp_path) / "last.pth"))
    assert {n.split(".")[0] for n in before if not torch.equal(before[n], after[n])} == {"classifier"}


def test_broken_pictures_through_train_val_and_test(tmp_path):
    draw_folder(tmp_path / "train", per_class=50)
    names = ["cat.500.jpg", "cat.501.jpg", "dog.500.jpg", "dog.501.jpg"]
    broken_kinds(tmp_path / "train", names)
    (tmp_path / "test1").mkdir()
    for number, kind in enumerate(KINDS):  # odd, but whole
        kind(tmp_path / "train" / f"dog.{700 + number}.jpg")
        kind(tmp_path / "test1" / f"{700 + number}.jpg")
    broken_kinds(tmp_path / "test1", ["1.jpg", "2.jpg", "30.jpg", "31.jpg"])
    shutil.copy(tmp_path / "train" / "cat.0.jpg", tmp_path / "test1" / "7.jpg")
    done = main("train", "--train-data-root=train", *FAST, "--max-epoch=1", cwd=tmp_path, check=0)
    assert done.stderr.count("warning: 4 samples cannot be used, left out: ") == 1 and all(
        name in done.stderr for name in names
    )
    listed = (only_run(tmp_path) / "broken.txt").read_text().splitlines()
    reasons = dict(line.removesuffix(")").split(" (", 1) for line in listed)
    assert all(reasons.pop(f"train/{name}").startswith(why) for name, why in zip(names, REASONS, strict=True))
    assert all(line in done.stderr for line in listed)
    assert "warning: " in main("val", cwd=tmp_path, check=0).stderr
    done = main("test", "--test-data-root=test1", cwd=tmp_path, check=0)
    assert "4 samples cannot be used, not predicted by the model: test1/1.jpg (cannot identify" in done.stderr
    lines = (tmp_path / "result.csv").read_text().split()
    assert lines[1:3] == ["1,0.500000", "2,0.500000"] and lines[4:6] == ["30,0.500000", "31,0.500000"]
    odd = [line.split(",") for line in lines[6:]]
    assert [int(id) for id, _ in odd] == list(range(700, 700 + len(KINDS)))
    assert all(0 < float(dog) < 1 and dog != "0.500000" for _, dog in odd)
    shutil.rmtree(tmp_path / "checkpoints")
    for number in range(600, 604):
        (tmp_path / "train" / f"cat.{number}.jpg").write_bytes(b"")
    done = main("train", "--train-data-root=train", *FAST, "--max-epoch=1", cwd=tmp_path)
    assert (
        done.returncode == 2
        and "8 of 118 samples cannot be used, which is more than 5 %; the first is train/" in done.stderr
    )
    assert not (tmp_path / "checkpoints").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, pictures):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    done = main("train", f"--train-data-root={pictures}", *FAST, cwd=tmp_path)
    assert done.returncode == 2 and "checkpoints" in done.stderr and "Traceback" not in done.stderr


def test_two_runs_started_at_once_get_folders_of_their_own(tmp_path, pictures):
    two = """
import atexit, os
other = os.fork()
def both():
    if other and os.waitpid(other, 0)[1]:
        os._exit(1)
atexit.register(both)
"""
    command = ["train", f"--train-data-root={pictures}", *FAST, "--max-epoch=1"]
    assert server().run(*command, cwd=tmp_path, first=two) == 0, (tmp_path / "output").read_text()
    runs = list((tmp_path / "checkpoints").iterdir())
    assert len(runs) == 2 and all(len(rows(run)) == 1 for run in runs)


def test_progress_can_be_turned_off(tmp_path, pictures):
    for option, bar in (("--progress=True", True), ("--progress=False", False)):
        session = Forked(["train", f"--train-data-root={pictures}", *FAST, "--max-epoch=1", option], tmp_path)
        assert session.end() == 0 and ("samples/s" in session.screen) == bar and "epoch 1/1: " in session.screen


# --- resuming after an end that nobody planned


def test_resume_refuses_what_it_cannot_do(trained, tmp_path, pictures):
    cwd, run, _ = trained
    fewer = draw_folder(tmp_path / "fewer", per_class=6)
    before, config_before = state(run), (run / "config.yaml").read_text()
    for arguments, message in {
        ("--resume",): "holds no unfinished run",
        (f"--resume={run.name}", "--config=Demo"): "leave --config out",
        (f"--resume={run.name}", "--model=ResNet34"): "model=SqueezeNet is fixed on resume and cannot become ResNet34",
        (f"--resume={run.name}", "--lr=0.5"): "lr=0.001 is fixed on resume and cannot become 0.5; a new run can start",
        (f"--resume={run.name}", "--max-epoch=1"): "a resumed run may get more epochs than its 2, not fewer",
        (f"--resume={run.name}", "--optimizer=SGD"): "cannot become SGD",
        (
            f"--resume={run.name}",
            f"--train-data-root={fewer}",
        ): "the run began with 28 training samples, now there are 8;",
    }.items():
        done = main("train", *arguments, cwd=cwd)
        assert done.returncode == 2 and message in done.stderr, done.stderr
    assert differences(before, state(run)) == [] and (run / "config.yaml").read_text() == config_before


def test_other_pictures_of_the_same_number_are_refused_and_moved_ones_taken(tmp_path, pictures):
    shutil.copytree(pictures, tmp_path / "train")
    options = ["--train-data-root=train", *FAST, "--pack=False"]
    main("train", *options, "--max-epoch=1", cwd=tmp_path, check=0)
    run = only_run(tmp_path)
    (tmp_path / "train").rename(tmp_path / "moved")
    resume = ["train", f"--resume={run}", "--train-data-root=moved"]
    main(*resume, "--max-epoch=2", cwd=tmp_path, check=0)
    (tmp_path / "moved" / "cat.3.jpg").rename(tmp_path / "moved" / "dog.99.jpg")
    done = main(*resume, "--max-epoch=3", cwd=tmp_path, check=2)
    assert "the training samples are not those that the run began with" in done.stderr


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory, pictures):
    """The folder of a run of one epoch; not to be changed by a test."""
    cwd = tmp_path_factory.mktemp("one_epoch")
    main("train", f"--train-data-root={pictures}", *FAST, "--max-epoch=1", "--lr=0.002", cwd=cwd, check=0)
    return only_run(cwd)


@pytest.mark.parametrize("damage", [None, "{{{", "", "lr: 0.001\n"], ids=["lost", "no YAML", "empty", "cut off"])
def test_a_run_resumes_without_its_configuration_and_its_results(damage, one_epoch, tmp_path):
    run = shutil.copytree(one_epoch, tmp_path / "checkpoints" / one_epoch.name)
    before = yaml.safe_load((run / "config.yaml").read_text())
    if damage is None:
        (run / "config.yaml").unlink()
    else:
        (run / "config.yaml").write_text(damage)
    (run / "results.csv").write_bytes(b"\xff\x00")
    done = main("train", f"--resume={run}", "--max-epoch=2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "config.yaml is lost or damaged, last.pth has the options" in done.stderr
    assert "results.csv has lost the rows before epoch 2" in done.stderr
    after = yaml.safe_load((run / "config.yaml").read_text())
    changed = {name for name in before if name != "run" and before[name] != after[name]}
    assert changed == {"max_epoch"} and [row["epoch"] for row in rows(run)] == ["2"]


def test_a_run_that_another_process_trains_is_not_resumed(trained, tmp_path):
    _, run, _ = trained
    copy = shutil.copytree(run, tmp_path / "checkpoints" / run.name)
    (copy / "lock").write_text("unfinished")
    busy = Run(copy)  # as long as this process has it, it is being trained
    refused = main("train", "--resume", cwd=tmp_path, check=2).stderr
    assert f"no unfinished run but {run.name}, which another process is training" in refused
    named = main("train", f"--resume={run.name}", cwd=tmp_path, check=2)
    assert "is being trained by another process" in named.stderr
    busy.close()
    assert resume.find_run(tmp_path / "checkpoints", "newest") == copy


def test_the_newest_unfinished_run_is_the_one_that_is_resumed(tmp_path, capsys):
    """By the time of its checkpoint, whatever its name is."""
    for time, (name, word) in enumerate([("old", "unfinished"), ("a", "unfinished"), ("z", "finished")]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "lock").write_text(word)
        (tmp_path / name / "last.pth").touch()
        os.utime(tmp_path / name / "last.pth", (time, time))
    assert resume.find_run(tmp_path, "newest") == tmp_path / "a"
    assert "a is the newest of 2 unfinished runs, --resume= takes another one: old" in capsys.readouterr().out


def test_a_finished_run_can_be_given_more_epochs(trained, tmp_path, pictures):
    _, run, _ = trained
    shutil.copytree(run, tmp_path / "checkpoints" / run.name)
    main("train", f"--resume=checkpoints/{run.name}", "--max-epoch=3", cwd=tmp_path, check=0)
    run = only_run(tmp_path)
    assert [row["epoch"] for row in rows(run)] == ["1", "2", "3"]
    assert config.load({"config": run / "config.yaml"}).max_epoch == 3
    assert len(yaml.safe_load((run / "config.yaml").read_text())["run"]) == 2  # both starts are on record
    run.rename(tmp_path / "moved")
    val = main("val", f"--load-model-path={tmp_path / 'moved' / 'best.pth'}", cwd=tmp_path, check=0)
    assert "val_accuracy" in val.stdout and "warning" not in val.stderr  # needs neither its folder nor its config


@pytest.mark.slow
def test_killed_at_ten_random_moments_and_resumed_a_run_ends_as_if_undisturbed(tmp_path):
    """kill -9, each time a random moment after an epoch; every resume continues from there, in the same bits."""
    draw_folder(tmp_path / "train", per_class=6)
    fast = [option for option in FAST if "workers" not in option]
    arguments = ["--train-data-root=../train", *fast, "--num-workers=1", "--max-epoch=26", "--print-freq=2"]
    calm, killed, moments = tmp_path / "calm", tmp_path / "killed", random.Random(7)
    for folder in (calm, killed):
        folder.mkdir()
    assert server().run("train", *arguments, cwd=calm, first=NO_REPORTS) == 0, (calm / "output").read_text()
    for kill in range(10):
        dies = f"""
import os, signal, threading
from utils.run.checkpoint import Checkpoint
plain = Checkpoint.on_epoch_end
def on_epoch_end(self, **facts):
    plain(self, **facts)
    threading.Timer({moments.uniform(0, 0.05)}, os.kill, (os.getpid(), signal.SIGKILL)).start()
Checkpoint.on_epoch_end = on_epoch_end
{NO_REPORTS}
"""
        command = ["--resume"] if kill else arguments
        assert server().run("train", *command, cwd=killed, first=dies) == -signal.SIGKILL
        for path in killed.glob("checkpoints/*/*.pth"):
            assert read_checkpoint(path)["weights"]
    assert server().run("train", "--resume", cwd=killed, first=NO_REPORTS) == 0, (killed / "output").read_text()

    calm, killed = only_run(calm), only_run(killed)
    assert [row["epoch"] for row in rows(killed)] == [str(n) for n in range(1, 27)]
    assert differences(state(calm), state(killed)) == []
    assert (killed / "lock").read_text() == "finished" and not list(killed.glob("*.tmp"))
    last = lambda run: {(e["name"], e["x"]): e["y"] for e in events(run) if e["kind"] == "plot"}  # noqa: E731
    assert last(calm) == last(killed)


def test_a_run_whose_pictures_grow_is_killed_within_an_epoch_and_ends_in_the_same_bits(tmp_path):
    """Also with Muon, whose state is its own."""
    draw_folder(tmp_path / "train", per_class=6)
    options = f"{NO_SERVER} --train-data-root=../train --model=ResNet9 --width=0.125 --image-size=64 --batch-size=4"
    options += " --train-image-size=32,48,64 --optimizer=Muon --lr=0.01 --max-epoch=3 --save-freq=1 --num-workers=0"
    options += " --precision=fp32"  # each of the two would measure for itself
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    sizes = """
from data.pictures.augment import Augment
plain = Augment.__call__
def call(self, images, *rest):
    result = plain(self, images, *rest)
    print("size", result[0].shape[2])
    return result
Augment.__call__ = call
"""
    dies = """
import os, signal
from utils.run.run import Run
advance = Run.advance
def counted(self):
    advance(self)
    if self.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
Run.advance = counted
"""
    for folder in (calm, killed):
        folder.mkdir()
    code = server().run("train", *options.split(), cwd=calm, first=NO_REPORTS + sizes)
    assert code == 0, (calm / "output").read_text()
    assert server().run("train", *options.split(), cwd=killed, first=NO_REPORTS + dies) == -signal.SIGKILL
    assert server().run("train", "--resume", cwd=killed, first=NO_REPORTS + sizes) == 0
    assert differences(state(only_run(calm)), state(only_run(killed))) == []
    found = [
        [int(line.split()[1]) for line in (folder / "output").read_text().splitlines() if line.startswith("size ")]
        for folder in (calm, killed)
    ]
    assert found[0] == [32] * 2 + [48] * 2 + [64] * 2 and found[1] == found[0][3:]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be another user")
def test_runs_of_other_users_in_a_shared_folder_are_passed_over():
    tmp_path = Path(tempfile.mkdtemp())  # that every user can reach
    for number, (name, user) in enumerate({"mine": 65534, "root's": 0}.items()):
        (tmp_path / name).mkdir()
        for file in ("lock", "config.yaml", "last.pth"):
            (tmp_path / name / file).touch()
            os.utime(tmp_path / name / file, (number, number))  # root's is the newer one
            os.chown(tmp_path / name / file, user, user)
    tmp_path.chmod(0o755)

    def ask():
        os.setuid(65534)
        found = [resume.find_run(str(tmp_path), name) for name in ("auto", "newest")]
        assert found == [tmp_path / "mine", tmp_path / "mine"]
        (tmp_path / "mine" / "lock").write_text("finished")
        assert resume.find_run(str(tmp_path), "auto") is None
        with pytest.raises(UserError, match="no unfinished run but 1 run that this user may not change"):
            resume.find_run(str(tmp_path), "newest")

    process = multiprocessing.get_context("fork").Process(target=ask)
    process.start()
    process.join()
    shutil.rmtree(tmp_path)
    assert process.exitcode == 0
