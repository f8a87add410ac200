"""Checkpoints that cannot be lost: damaged ones are found, a kill or a full disk leaves a sound one, none runs code."""

import ast
import contextlib
import errno
import os
import pickle
import random
import re
import resource
import signal
import subprocess
import threading
import time

import pytest
import torch
from conftest import FAST, ROOT, main
from test_models import Runs
from test_training import differences, events, only_run, rows, start

from benchmarks.faults_saving import Tiny, advance, keeper, killed_while_saving
from data import DogCat
from models.checkpoint import read_checkpoint, write_checkpoint
from models.errors import ModelError
from utils import UserError
from utils.run import find_run


def weights_are(step, path):
    values = [read_checkpoint(path)["weights"][f"classifier.{name}"] for name in ("weight", "bias")]
    return all((value == step).all() for value in values)


# --- damage


def test_every_flipped_byte_and_every_cut_is_found(tmp_path):
    """More than asked: not 100 places of a file but all of them."""
    path = tmp_path / "a.pth"
    Tiny().save(path, epoch=3)
    whole, found = path.read_bytes(), 0

    def refused():
        with pytest.raises(ModelError, match="is not a whole checkpoint"):
            read_checkpoint(path)
        return True

    with open(path, "r+b", buffering=0) as file:
        for place, byte in enumerate(whole):
            for value in (byte ^ 1 << place % 8, byte):  # and back again
                file.seek(place)
                file.write(bytes([value]))
                found += value != byte and refused()
        assert read_checkpoint(path)["epoch"] == 3
        for size in reversed(range(len(whole))):
            file.truncate(size)
            found += refused()
    assert found == 2 * len(whole)


def test_what_others_save_is_read_and_others_read_what_we_save(tmp_path):
    ours, theirs, old = (tmp_path / name for name in ("ours.pth", "theirs.pth", "old.pth"))
    model = Tiny()
    model.save(ours, epoch=3)
    for options in ({}, {"mmap": True}):
        assert differences(torch.load(ours, weights_only=True, **options), read_checkpoint(ours)) == []
    torch.save(model.state_dict(), theirs)
    torch.save(model.state_dict(), old, _use_new_zipfile_serialization=False)
    for path in (theirs, old):
        assert differences(read_checkpoint(path)["weights"], dict(model.state_dict())) == []
    whole = theirs.read_bytes()
    theirs.write_bytes(whole.replace(model.classifier.weight.data.numpy().tobytes(), bytes(64)))
    assert torch.load(theirs, weights_only=True)["classifier.weight"].sum() == 0  # torch does not look at its sums
    with pytest.raises(ModelError, match="is not a whole checkpoint"):
        read_checkpoint(theirs)


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
        assert said == f"{tmp_path}: last.pth is {why}: going on from previous.pth, after 0 epochs and 2 batches\n"
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
        with pytest.raises(UserError, match="last.pth cannot be read: Input/output error; once that is mended"):
            keeper(tmp_path)
    assert keeper(tmp_path).run.step == 3


def test_processes_that_find_different_checkpoints_do_not_train(tmp_path):
    class Apart:  # what the first process sees of another one, which is a step behind
        main, size = True, 2

        def agree(self, number):
            return max(number, 2 if number >= 0 else -2)

    checkpoint = keeper(tmp_path)
    checkpoint.world = Apart()
    checkpoint._compare(2)
    with pytest.raises(UserError, match="find different checkpoints in .*, of 2 and of 3 steps"):
        checkpoint._compare(3)
    with pytest.raises(UserError, match="of 1 and of 2 steps"):
        checkpoint._compare(1)


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
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        yield os.strerror(errno.EFBIG)
    finally:
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
                ["warning", f"{folder / name}.pth", f"{reason}; the training goes on, what was there stays"]
                for name in ("last", "best")
            ]
            kept = folder / "last.pth"
            assert weights_are(checkpoint.saved[2], kept) and not list(folder.glob("*.tmp"))
            assert checkpoint.saved[2] == checkpoint.run.step - 3
        advance(checkpoint)
        assert weights_are(checkpoint.run.step, kept)
        checkpoint.on_epoch_end(metrics=metrics, val_meter=None)
        assert checkpoint.run.best == metrics["val_accuracy"]  # and not that of an epoch that could not be kept
        assert capsys.readouterr().err == "last.pth can be written again\nbest.pth can be written again\n"
        checkpoint.run.best = 0.0
    before = checkpoint.run.step
    with fault(folder, 0) as reason, pytest.raises(UserError) as error:
        advance(checkpoint)
        checkpoint.on_train_end(finished=True, stopped=False, error=None)
    batches = (
        f"what was done after 0 epochs and {before} batches is not saved; once that is mended, to go on from there"
    )
    told = f"{folder}/last.pth: {reason}; {batches}: python main.py train --resume={folder}"
    assert str(error.value) == told
    assert keeper(folder).run.step == before


def test_an_error_saves_what_is_sound_and_is_never_hidden(tmp_path, capsys):
    checkpoint = keeper(tmp_path / "a")
    advance(checkpoint, save=False)
    for _ in checkpoint.parts["update"].parts(torch.ones(4, 8), torch.ones(4)):
        checkpoint.model.norm(torch.ones(4, 8))  # a step that is not finished
    checkpoint.on_train_end(finished=False, stopped=False, error=ValueError())
    content = read_checkpoint(tmp_path / "a" / "last.pth")
    assert content["run"]["step"] == 1 and content["weights"]["norm.num_batches_tracked"] == 0
    assert capsys.readouterr().out.endswith(f"stopped; to go on: python main.py train --resume={tmp_path / 'a'}\n")

    class Gpu:
        broken = False

        def state_dict(self):
            if self.broken:
                raise RuntimeError("CUDA error: unspecified launch failure")
            return {}

    checkpoint = keeper(tmp_path / "b", gpu=Gpu())
    advance(checkpoint, save=False)
    Gpu.broken = True
    checkpoint.on_train_end(finished=False, stopped=False, error=RuntimeError())
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
    assert "last.pth: Operation not permitted; the training goes on" in capsys.readouterr().err
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


# --- the whole program


SAVING = ["--batch-size=3", "--max-epoch=8", "--save-freq=3", "--ema=0.9", "--precision=fp32", "--print-freq=1"]


@pytest.fixture(scope="module")
def calm(tmp_path_factory, pictures):
    """The folder of a run that nobody disturbs, of nine steps an epoch."""
    cwd = tmp_path_factory.mktemp("calm")
    main("train", f"--train-data-root={pictures}", *FAST[:1], *FAST[2:], *SAVING, cwd=cwd, check=0)
    return only_run(cwd)


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


def test_killed_in_the_middle_of_an_epoch_it_goes_on_from_the_save_before_and_ends_in_the_same_bits(
    calm, tmp_path, pictures
):
    process = start("train", f"--train-data-root={pictures}", *FAST[:1], *FAST[2:], *SAVING, cwd=tmp_path)
    while True:
        time.sleep(0.02)
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGSTOP)
        found = list(tmp_path.glob("checkpoints/*/last.pth"))
        if found and read_checkpoint(found[0])["run"]["batch"] == 6:
            break
        process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()
    process.stdout.close()
    run = only_run(tmp_path)
    whole, before = (run / "last.pth").read_bytes(), read_checkpoint(run / "previous.pth")["run"]
    assert before["batch"] == 3
    (run / "last.pth").write_bytes(whole[:-1000] + bytes([whole[-1000] ^ 1]) + whole[-999:])
    said = main("train", "--resume", cwd=tmp_path, check=0).stdout
    assert f"last.pth is damaged: going on from previous.pth, after {before['epoch']} epochs and 3 batches\n" in said
    assert ends_as(calm, run)


def test_a_training_outlives_every_fault_of_its_disk_and_says_what_is_not_saved_in_the_end(
    small_disk, tmp_path, pictures
):
    (small_disk / "run").rmdir()
    options = [*FAST[:1], *FAST[2:], "--batch-size=3", "--save-freq=3", "--precision=fp32", "--max-epoch=12"]
    options += [f"--train-data-root={pictures}", f"--work-dir={small_disk}"]
    process = start("train", *options, cwd=tmp_path)
    said = []

    def wait_for(start):
        while not any(line.startswith(start) for line in said[-1:]):
            said.append(process.stdout.readline().decode())
            assert said[-1], f"it ended without {start}"

    wait_for("epoch 1/12")
    (run,) = (path.parent for path in small_disk.glob("*/last.pth"))
    for fault in FAULTS:
        with fault(run, process.pid) as reason:
            wait_for(f"warning: {run}/last.pth: {reason}; the training goes on, what was there stays\n")
            kept = read_checkpoint(run / "last.pth")["run"]
            if fault == FAULTS[-1]:
                said += process.stdout.read().decode().splitlines(keepends=True)
                break
        while read_checkpoint(run / "last.pth")["run"] == kept:
            assert process.poll() is None, "it did not save again"
            time.sleep(0.02)
    after = f"what was done after {kept['epoch']} epochs and {kept['batch']} batches is not saved"
    assert process.wait() == 2 and said[-1] == (
        f"main.py: {run}/last.pth: File too large; {after}; once that is mended, to go on from there: "
        f"python main.py train --resume={run}\n"
    )
    text = "".join(said)
    assert "epoch 12/12" in text and "Traceback" not in text and find_run(small_disk, "newest") == run
    assert re.search(r"warning: \S*results.csv: [\w ]+; the rows from epoch \d+ on are not in it yet\n", text)


# --- nothing that is read runs code


def test_a_checkpoint_a_configuration_and_a_pack_run_no_code(tmp_path, pictures):
    owned = tmp_path / "owned"
    torch.save({"weights": Runs(owned)}, tmp_path / "evil.pth")
    done = main("val", "--load-model-path=evil.pth", cwd=tmp_path, check=2)
    assert "evil.pth is not a whole checkpoint" in done.stderr
    (tmp_path / "evil.yaml").write_text(f"lr: !!python/object/apply:os.system ['touch {owned}']\n")
    done = main("train", "--config=evil.yaml", cwd=tmp_path, check=2)
    assert "evil.yaml: cannot be read as YAML: could not determine a constructor" in done.stderr

    evil = pickle.dumps(Runs(owned))
    fresh = DogCat(pictures, "val", image_size=32, pack=True, pack_dir=tmp_path)
    names = {path.suffix: path for path in tmp_path.glob("DogCat_*")}
    pixels = fresh.rows[[0, 1]]
    for suffix in (".u8", ".json"):
        names[suffix].write_bytes(evil)
        again = DogCat(pictures, "val", image_size=32, pack=True, pack_dir=tmp_path)
        assert torch.equal(again.rows[[0, 1]], pixels)
    assert not owned.exists()
    pickle.loads(evil)
    assert owned.exists(), "it would not have been noticed"


def test_every_call_that_reads_a_file_is_one_that_runs_no_code():
    """A walk through the source: who adds another way to load has to think of it here."""
    weights_only = {"torch.load", "torch.hub.load_state_dict_from_url"}
    plain = {"json.loads", "yaml.safe_load", "ast.literal_eval"}  # these know no code
    images = {"picture.load", "ImageFont.load_default", "download_and_extract_archive"}  # Pillow's, torchvision's
    ours = {"load", "config.load", "model.load", "self.model.load", "self._load", "load_trained"}
    pickles = {"ArraysOnly(file, encoding='latin1').load"}  # CIFAR10's, see test_data_sets.py
    known = weights_only | plain | images | ours | pickles
    readers = re.compile(r"load|loads|load_\w+|\w+_load|literal_eval|eval|exec|compile|Unpickler|fromfile|download_\w+")
    files = [file for folder in ("data", "models", "utils") for file in (ROOT / folder).glob("*.py")]
    found = set()
    for path in [ROOT / "main.py", ROOT / "config.py", *files]:
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name, words = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
            last = name.rpartition(".")[2]
            harmless = last == "load_state_dict" or name in ("re.compile", "torch.compile")
            harmless |= last == "eval" and name != "eval" and not call.args  # a model's
            if readers.fullmatch(last) and not harmless:
                found.add(name)
                assert name in known, f"{path.name}:{call.lineno}: {name}: can it run code?"
                assert name not in weights_only or words.get("weights_only") == "True", f"{path.name}:{call.lineno}"
    assert weights_only < found  # it does look
