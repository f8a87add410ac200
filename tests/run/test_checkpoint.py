"""Checkpoints that cannot be lost: damaged ones are found, a kill or a full disk leaves a sound one."""

import contextlib
import errno
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import threading

import pytest
import torch
from conftest import ROOT, main, server
from runs import differences, events, only_run, rows
from wait import until

from benchmarks.faults_saving import advance, keeper, killed_while_saving
from utils import UserError
from utils.notices import counted
from utils.run.checkpoint_file import read_checkpoint, write_checkpoint
from utils.run.resume import find_run
from utils.run.run import State
from utils.runs.table import read_run


def weights_are(step, path):
    values = [read_checkpoint(path)["weights"][f"classifier.{name}"] for name in ("weight", "bias")]
    return all((value == step).all() for value in values)


def end(checkpoint, finished, error=None):
    """End the training of a Checkpoint, as Callbacks do."""
    for act in (checkpoint.on_train_end, checkpoint.close):
        act(finished=finished, stopped=False, error=error)


# --- damage


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path, capsys):
    def resumed():
        checkpoint = keeper(tmp_path)
        checkpoint.run.close()
        return checkpoint, capsys.readouterr().out

    first = keeper(tmp_path)
    for _ in range(3):
        advance(first)
    first.run.close()
    last, previous = tmp_path / "last.pth", tmp_path / "previous.pth"
    whole, before = last.read_bytes(), previous.read_bytes()
    places = random.Random(0).sample(range(len(whole)), 100)
    damages = [whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :] for place in places]
    damages += [whole[: len(whole) * share // 100] for share in (0, 50, 99)]
    for damaged in [*damages, None]:
        last.write_bytes(damaged or b"")
        previous.write_bytes(before)
        if damaged is None:
            last.unlink()
        checkpoint, said = resumed()
        why = "missing" if damaged is None else "damaged"
        assert said == f"{tmp_path}: last.pth is {why}: resuming from previous.pth, after 0 epochs and 2 batches\n"
        assert checkpoint.run.step == 2 and weights_are(2, last) and not previous.exists()  # not put in its place
    (tmp_path / "config.yaml").touch()
    last.rename(previous)
    assert find_run(tmp_path, str(tmp_path)) == find_run(tmp_path.parent, "newest") == tmp_path
    last.write_bytes(whole[:100])
    previous.write_bytes(before[:100])
    with pytest.raises(
        UserError, match="last.pth is not a whole .*; .*previous.pth is not a whole .* --load-model-path"
    ):
        resumed()


def test_a_checkpoint_that_cannot_be_read_just_now_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    first = keeper(tmp_path)
    for _ in range(3):
        advance(first)
    first.run.close()
    real = open

    def fails(path, *arguments, **words):
        if str(path).endswith("last.pth"):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, *arguments, **words)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", fails)
        with pytest.raises(UserError, match="last.pth cannot be read: Input/output error; fix that"):
            keeper(tmp_path)
    assert keeper(tmp_path).run.step == 3


def test_processes_that_find_different_checkpoints_do_not_train(tmp_path):
    class Apart:  # what the first process sees of another one, which is a step behind
        main, size = True, 2

        def all_reduce_max(self, number):
            return max(number, 2 if number >= 0 else -2)

    checkpoint = keeper(tmp_path)
    checkpoint.world = Apart()
    checkpoint._compare(2)
    with pytest.raises(UserError, match="find different checkpoints in .*, of 2 and of 3 steps"):
        checkpoint._compare(3)
    with pytest.raises(UserError, match="of 1 and of 2 steps"):
        checkpoint._compare(1)
    for _ in range(3):
        advance(checkpoint)
    with pytest.raises(UserError, match="of 2 and of 3 steps"):
        checkpoint.restore()


def test_every_part_of_a_run_is_saved_and_restored():
    class Part:
        def __init__(self, held):
            self.held = held

        def state_dict(self):
            return self.held

        def load_state_dict(self, held):
            self.held = held

    saved, new = State(*map(Part, range(7))), State(*[Part(None) for _ in range(7)])
    new.load_state_dict(saved.state_dict())
    assert [part.held for part in vars(new).values()] == list(range(7))


def test_going_back_takes_the_newest_checkpoint_that_is_old_enough(tmp_path):
    checkpoint = keeper(tmp_path)
    for _ in range(3):
        advance(checkpoint)
    for step, found in ((9, 3), (3, 3), (2, 2), (1, 2)):
        assert checkpoint.restore_before(step) == found and (checkpoint.model.classifier.weight == found).all()
    assert checkpoint.run.step == 3  # the position is where it was


# --- kill -9


def test_killed_while_it_saves_a_run_has_lost_nothing(tmp_path):
    half_written = killed_while_saving(tmp_path, kills=50)  # python -m benchmarks.faults_saving does it 200 times
    assert half_written > 5, "hardly one of the kills came while a file was written"


# --- a disk that does not take it


@contextlib.contextmanager
def full_disk(folder, pid):
    path, lifted, full = folder / "filler", threading.Event(), threading.Event()

    def fill():  # whatever a save that is going on gives back is taken, too
        with open(path, "wb", buffering=0) as filler:
            while not lifted.is_set():
                try:
                    filler.write(bytes(65536))
                except OSError:
                    full.set()
                    lifted.wait(0.005)

    thread = threading.Thread(target=fill)
    thread.start()
    full.wait()
    try:
        yield os.strerror(errno.ENOSPC)
    finally:
        lifted.set()
        thread.join()
        path.unlink()


@contextlib.contextmanager
def read_only_folder(folder, pid):
    subprocess.run(["chattr", "+i", folder], check=True)  # root may write whatever the mode says
    try:
        yield os.strerror(errno.EPERM)
    finally:
        subprocess.run(["chattr", "-i", folder], check=True)


@contextlib.contextmanager
def limited_files(folder, pid):
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        yield os.strerror(errno.EFBIG)
    finally:
        with contextlib.suppress(ProcessLookupError):  # the last fault's training has ended
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


FAULTS = [full_disk, read_only_folder, limited_files]


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 64 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    (disk / "run").mkdir()
    if subprocess.run(["chattr", "+i", disk / "run"], capture_output=True).returncode:
        pytest.skip("no folder can be made read-only here, not even by root")
    subprocess.run(["chattr", "-i", disk / "run"], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_save_that_fails_is_one_warning_and_the_old_file_stays(fault, small_disk, capsys):
    folder = small_disk / "run"
    with fault(folder, 0) as reason, pytest.raises(OSError) as error:
        keeper(folder)  # the first save of all: the run does not begin
    assert error.value.strerror == reason and (fault is read_only_folder or error.value.filename.endswith("last.pth"))
    checkpoint = keeper(folder)
    metrics = {"val_accuracy": 50.0}
    advance(checkpoint)
    for _ in range(2):
        with fault(folder, 0) as reason:
            for _ in range(3):
                advance(checkpoint)
                checkpoint.on_epoch_end(metrics=metrics, val_meter=None)
                metrics = {"val_accuracy": metrics["val_accuracy"] + 1}
            told = capsys.readouterr().err.splitlines()
            assert [line.split(": ")[:3] for line in told] == [
                ["warning", f"{folder / name}.pth", f"{reason}; the training continues, what was there stays"]
                for name in ("last", "best")
            ]
            kept = folder / "last.pth"
            assert weights_are(checkpoint.saved[2], kept) and not list(folder.glob("*.tmp"))
            assert checkpoint.saved[2] == checkpoint.run.step - 3
        advance(checkpoint)
        assert weights_are(checkpoint.run.step, kept)
        checkpoint.on_epoch_end(metrics=metrics, val_meter=None)
        assert checkpoint.run.best == metrics["val_accuracy"]  # and not that of an epoch that could not be kept
        assert capsys.readouterr().out == "note: last.pth can be written again\nnote: best.pth can be written again\n"
        checkpoint.run.best = 0.0
    before = checkpoint.run.step
    with fault(folder, 0) as reason, pytest.raises(UserError) as error:
        advance(checkpoint)
        end(checkpoint, finished=True)
    batches = f"what was done after 0 epochs and {before} batches is not saved; fix that, then resume from there"
    told = f"{folder}/last.pth: {reason}; {batches}: python main.py train --resume={folder}"
    assert str(error.value) == told
    assert keeper(folder).run.step == before


def test_an_error_saves_what_is_sound_and_is_never_hidden(tmp_path, capsys):
    checkpoint = keeper(tmp_path / "a")
    advance(checkpoint, save=False)
    for _ in checkpoint.state.step.micro_batches(torch.ones(4, 8), torch.ones(4)):
        checkpoint.model.norm(torch.ones(4, 8))  # a step that is not finished
    end(checkpoint, finished=False, error=ValueError())
    content = read_checkpoint(tmp_path / "a" / "last.pth")
    assert content["run"]["step"] == 1 and content["weights"]["norm.num_batches_tracked"] == 0
    assert capsys.readouterr().out.endswith(f"stopped; to resume: python main.py train --resume={tmp_path / 'a'}\n")

    class Gpu:
        broken = False

        def state_dict(self):
            if self.broken:
                raise RuntimeError("CUDA error: unspecified launch failure")
            return {}

    checkpoint = keeper(tmp_path / "b", gpu=Gpu())
    advance(checkpoint, save=False)
    Gpu.broken = True
    end(checkpoint, finished=False, error=RuntimeError())
    lost = "unspecified launch failure; what was done after 0 epochs and 0 batches is not saved\n"
    assert capsys.readouterr().err.endswith(lost)


@pytest.mark.parametrize("links", [True, False])
def test_a_save_that_ends_at_its_last_rename_leaves_the_state_before_it(links, tmp_path, monkeypatch, capsys):
    checkpoint, last, rename = keeper(tmp_path), tmp_path / "last.pth", os.replace
    advance(checkpoint)

    def refuse_last(source, target):
        if target == last:
            raise PermissionError(errno.EPERM, "Operation not permitted", str(source), None, str(target))
        rename(source, target)

    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted", str(source), None, str(target))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse_last)
        if not links:  # exFAT, and some that reach over a network
            patch.setattr(os, "link", refuse)
        advance(checkpoint)
    assert "last.pth: Operation not permitted; the training continues" in capsys.readouterr().err
    assert last.exists() is links
    assert keeper(tmp_path).run.step == 1
    advance(checkpoint)
    assert weights_are(3, last) and weights_are(1, tmp_path / "previous.pth")


def test_no_checkpoint_holds_a_weight_that_is_not_finite(tmp_path, capsys):
    checkpoint = keeper(tmp_path)
    advance(checkpoint)
    for value in (float("nan"), float("inf"), -float("inf")):
        checkpoint.model.classifier.bias.data[1] = value
        checkpoint.on_batch_end()
    assert capsys.readouterr().err.count("last.pth is not written, its weight classifier.bias is not finite") == 1
    assert weights_are(1, tmp_path / "last.pth") and read_checkpoint(tmp_path / "previous.pth")["run"]["step"] == 0
    large = {"large": torch.full((9,), 3e38)}  # their sum is not
    write_checkpoint({"weights": large}, tmp_path / "large.pth")
    assert differences(read_checkpoint(tmp_path / "large.pth")["weights"], large) == []


def test_the_end_of_a_run_whose_weights_are_not_finite_is_that_of_a_diverged_one(tmp_path):
    checkpoint = keeper(tmp_path)
    advance(checkpoint)
    checkpoint.model.classifier.bias.data[1] = float("inf")
    checkpoint.run.step += 1
    with pytest.raises(UserError, match="is not finite; .* is not saved; the run has diverged, begin a new one with a"):
        end(checkpoint, finished=True)
    assert read_run(tmp_path).state == "diverged"


def test_a_resumed_run_with_nothing_left_to_do_says_so(tmp_path, capsys):
    checkpoint = keeper(tmp_path)
    advance(checkpoint)
    end(checkpoint, finished=True)
    assert capsys.readouterr().out == f"finished: {tmp_path}\n"
    end(keeper(tmp_path), finished=True)
    said = capsys.readouterr().out
    assert said.endswith(f"finished: {tmp_path}; nothing was left to do, a larger --max-epoch trains on\n")


# --- the whole program


PRECISE = ["--image-size=32", "--batch-size=3", "--num-workers=0", "--model=SqueezeNet", "--vis-port=1"]
PRECISE += ["--save-freq=3", "--precision=fp32"]  # nine steps an epoch
SAVING = [*PRECISE, "--max-epoch=3", "--ema=0.9", "--print-freq=1"]
# Killed in the second epoch when the weights have made its eighth step, which is not counted yet.
DIES = """
import os, signal
from utils.train.step import TrainStep
plain = TrainStep.apply
def apply(self, number):
    plain(self, number)
    if number == 16:
        os.kill(os.getpid(), signal.SIGKILL)
TrainStep.apply = apply
"""
# The second epoch begins again and again, until there is a file.
ENDLESS = """
import main, os
plain = main.batches
def batches(loader, run, device):
    yield from plain(loader, run, device)
    while run.epoch == 1 and not os.path.exists("enough"):
        run.batch = 0
        yield from plain(loader, run, device)
main.batches = batches
"""


@pytest.fixture(scope="module")
def calm(tmp_path_factory, pictures):
    """The folder of a run that nobody disturbs."""
    cwd = tmp_path_factory.mktemp("calm")
    main("train", f"--train-data-root={pictures}", *SAVING, cwd=cwd, check=0)
    return only_run(cwd)


@pytest.fixture(scope="module")
def killed(tmp_path_factory, pictures):
    """The folder of the same run, killed in the middle of its second epoch; not to be changed by a test."""
    cwd = tmp_path_factory.mktemp("killed")
    assert server().run("train", f"--train-data-root={pictures}", *SAVING, cwd=cwd, first=DIES) == -signal.SIGKILL
    run = only_run(cwd)
    assert [read_checkpoint(run / name)["run"]["batch"] for name in ("previous.pth", "last.pth")] == [3, 6]
    return run


@pytest.fixture
def copy(killed, tmp_path):
    """A copy of that folder, in checkpoints/ of tmp_path."""
    return shutil.copytree(killed, tmp_path / "checkpoints" / killed.name)


def ends_as(calm, run):
    """That two runs do not differ in a weight, anything else that is saved, or any number that is logged."""
    one, other = (read_checkpoint(folder / "last.pth") for folder in (calm, run))
    assert differences(*({name: part[name] for name in part if name != "info"} for part in (one, other))) == []
    timeless = [
        [{n: v for n, v in row.items() if "seconds" not in n} for row in rows(folder)] for folder in (calm, run)
    ]
    assert timeless[0] == timeless[1]
    plots = [{(e["name"], e["x"]): e["y"] for e in events(folder) if e["kind"] == "plot"} for folder in (calm, run)]
    assert plots[0] == plots[1]
    return True


def flip(path):
    """Change one bit of a file."""
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000] + bytes([whole[-1000] ^ 1]) + whole[-999:])


def contents(folder):
    """{path: bytes} of all files in a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_killed_in_the_middle_of_an_epoch_it_resumes_from_the_save_before_and_ends_in_the_same_bits(
    calm, copy, tmp_path
):
    flip(copy / "last.pth")
    said = main("train", "--resume", cwd=tmp_path, check=0).stdout
    assert "last.pth is damaged: resuming from previous.pth, after 1 epoch and 3 batches\n" in said
    assert ends_as(calm, copy)


def test_a_run_that_cannot_be_restored_is_left_as_it_was(copy, tmp_path):
    for name in ("last.pth", "previous.pth"):
        flip(copy / name)
    before = contents(copy)
    for resume in ("--resume", f"--resume={copy.name}", f"--resume={copy}"):
        done = main("train", resume, cwd=tmp_path, check=2)
        (line,) = done.stderr.splitlines()
        assert line.startswith("main.py: this run cannot be resumed: ") and "previous.pth is not a whole" in line
        assert "resuming" not in done.stdout
        assert contents(copy) == before and (copy / "lock").read_text() == "unfinished"


def test_a_training_outlives_every_fault_of_its_disk_and_says_what_is_not_saved_in_the_end(
    small_disk, tmp_path, pictures
):
    (small_disk / "run").rmdir()
    options = [*PRECISE, "--max-epoch=3", f"--train-data-root={pictures}", f"--work-dir={small_disk}"]
    os.mkfifo(tmp_path / "output")  # and no file: a limit for files would end its output
    pid = server().start("train", *options, cwd=tmp_path, first=ENDLESS)
    said = []

    def wait_for(start):
        while not any(line.startswith(start) for line in said[-1:]):
            said.append(output.readline())
            assert said[-1], "".join(said)  # it ended without that line

    with open(tmp_path / "output") as output:
        wait_for("user config:")
        (run,) = until(lambda: [path.parent for path in small_disk.glob("*/results.csv")])
        for fault in FAULTS:
            with fault(run, pid) as reason:
                wait_for(f"warning: {run}/last.pth: {reason}; the training continues, what was there stays\n")
                kept = read_checkpoint(run / "last.pth")["run"]
                if fault == FAULTS[-1]:
                    (tmp_path / "enough").touch()
                    said += output.readlines()
                    break
            until(lambda kept=kept: read_checkpoint(run / "last.pth")["run"] != kept)
    position = f"{counted(kept['epoch'], 'epoch')} and {counted(kept['batch'], 'batch', 'batches')}"
    after = f"what was done after {position} is not saved"
    assert server().wait() == 2 and said[-1] == (
        f"main.py: {run}/last.pth: File too large; {after}; fix that, then resume from there: "
        f"python {ROOT / 'main.py'} train --resume={run}\n"
    )
    text = "".join(said)
    assert "epoch 3/3" in text and "Traceback" not in text and find_run(small_disk, "newest") == run
    assert re.search(r"warning: \S*results.csv: [\w ]+; the rows from epoch \d+ on are not in it yet\n", text)
