"""The file of a checkpoint: damage is found, other formats are read or refused in one line, nothing runs code."""

import ast
import os
import pickle
import re
import shutil
import signal

import pytest
import torch
from conftest import NO_SERVER, ROOT, main, server
from harmful import Harm
from runs import differences, only_run, rows

from benchmarks.faults_saving import Tiny
from benchmarks.faults_signals import NO_REPORTS
from data import DogCat
from utils import VERSION, UserError
from utils.run.checkpoint_file import FORMAT, MARK, TRAILER, Checksummed, read_checkpoint, write_checkpoint


def test_every_flipped_byte_and_every_cut_is_found(tmp_path):
    """More than asked: not 100 places of a file but all of them."""
    path = tmp_path / "a.pth"
    Tiny().save(path, epoch=3)
    whole, found = path.read_bytes(), 0

    def refused():
        with pytest.raises(UserError, match="is not a whole checkpoint"):
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


def test_a_disk_that_keeps_other_bytes_is_noticed_before_the_old_file_is_replaced(tmp_path, monkeypatch):
    path, fsync = tmp_path / "a.pth", os.fsync
    Tiny().save(path, epoch=1)
    old = path.read_bytes()

    def damage(handle):
        place = os.fstat(handle).st_size // 2
        os.pwrite(handle, bytes([os.pread(handle, 1, place)[0] ^ 1]), place)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", damage)
    with pytest.raises(OSError, match="reads differently"):
        Tiny().save(path, epoch=2)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]


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
    with pytest.raises(UserError, match="is not a whole checkpoint"):
        read_checkpoint(theirs)


def test_a_checkpoint_a_configuration_and_a_pack_run_no_code(tmp_path, pictures):
    owned = tmp_path / "owned"
    torch.save({"weights": Harm(os.system, f"touch {owned}")}, tmp_path / "evil.pth")
    done = main("val", "--load-model-path=evil.pth", cwd=tmp_path, check=2)
    assert "evil.pth is refused: to read it means to run posix.system," in done.stderr
    (tmp_path / "evil.yaml").write_text(f"lr: !!python/object/apply:os.system ['touch {owned}']\n")
    done = main("train", "--config=evil.yaml", cwd=tmp_path, check=2)
    assert "evil.yaml: cannot be read as YAML: could not determine a constructor" in done.stderr

    evil = pickle.dumps(Harm(os.system, f"touch {owned}"))
    fresh = DogCat(pictures, "val", image_size=32, pack=True, pack_dir=tmp_path)
    names = {path.suffix: path for path in tmp_path.glob("DogCat_*")}
    pixels = fresh.images[[0, 1]]
    for suffix in (".u8", ".json"):
        names[suffix].write_bytes(evil)
        again = DogCat(pictures, "val", image_size=32, pack=True, pack_dir=tmp_path)
        assert torch.equal(again.images[[0, 1]], pixels)
    assert not owned.exists()
    pickle.loads(evil)
    assert owned.exists(), "it would not have been noticed"


def test_every_call_that_reads_a_file_is_one_that_runs_no_code():
    """A walk through the source: who adds another way to load has to think of it here."""
    weights_only = {"torch.load"}
    plain = {
        "json.loads",
        "yaml.safe_load",
        "yaml.load",
        "ast.literal_eval",
    }  # these know no code; yaml's with the loader `safe`
    images = {"file.load", "ImageFont.load_default", "download_and_extract_archive"}  # Pillow's, torchvision's
    ours = {
        "load",
        "np.load",
        "loadmat",  # scipy's: numbers and text
        "load_file",  # of others.py: safetensors' too, a format without code
        "config.load",
        "space.load",  # config's
        "optuna.load_study",  # numbers and text, from JSON or a database
        "given.root().load",
        "self.opt.root().load",
        "model.load",
        "self.model.load",
        "self._load",
        "self.load",
        "load_trained",
        "program.load_trained",
        "built.load",
        "predictor.load",
        "onnx.load_from_string",  # a format without code; of what this process has made
        "torch.export.load",  # of what this process has made, and of nothing else
        "net.load_param",  # ncnn's layers, by name, and their numbers
        "net.load_model",
        "load_on_device",
    }
    pickles = {"ArraysOnly(file, encoding='latin1').load"}  # CIFAR10's, see test_cifar10.py
    pickles |= {"Unpickler", "Unpickler(file, **options).load"}  # stand-ins for all that is named, see test_inert.py
    known = weights_only | plain | images | ours | pickles | {"torch.hub.download_url_to_file"}
    readers = re.compile(r"load|loads|load_\w+|\w+_load|literal_eval|eval|exec|compile|Unpickler|fromfile|download_\w+")
    files = [file for folder in ("data", "models", "utils") for file in (ROOT / folder).rglob("*.py")]
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
                inert = words.get("weights_only") == "True" or words.get("pickle_module") == "inert"
                assert name not in weights_only or inert, f"{path.name}:{call.lineno}"
                assert name != "np.load" or words.get("allow_pickle") == "False", f"{path.name}:{call.lineno}"
                assert name != "yaml.load" or ast.unparse(call.args[1]) == "safe", f"{path.name}:{call.lineno}"
    assert weights_only < found  # it does look


# --- files of other hearths


OLD_NAMES = {"color_jitter": "colour", "random_erasing": "erase", "crop_min_scale": "min_crop"}
OLD_NAMES |= {"max_bad_steps": "bad_steps", "on_bad": "bad_action"}


def old_options(options):
    """Options as hearth 0.1 (231f874) kept them."""
    old = {OLD_NAMES.get(name, name): value for name, value in options.items() if name not in ("callbacks", "fit")}
    return {**old, "bad_action": {"rollback": "back"}.get(old["bad_action"], old["bad_action"])}


def make_old(run):
    """Rewrite a run's checkpoints and config.yaml as hearth 0.1 (231f874) wrote them."""
    for path in run.glob("*.pth"):
        content = read_checkpoint(path)
        assert content.pop("format") == FORMAT == 2 and content.pop("hearth") == VERSION
        content["info"]["config"] = old_options(content["info"]["config"])
        if "step" in content:
            step, meters = content.pop("step"), content.pop("meters")
            content |= {"average": step.pop("ema"), "update": step, "order": content.pop("sampler")}
            content |= {"loss_meter": meters["losses"], "train_meter": meters["scores"]}
            content["divergence"] = content.pop("guard")
            del content["run"]["steered"]
        with open(path, "wb") as file:
            summed = Checksummed(file)
            torch.save(content, summed)
            file.write(TRAILER.pack(summed.crc, MARK))
    text = (run / "config.yaml").read_text()
    for today, old in {**OLD_NAMES, "bad_action: rollback": "bad_action: back"}.items():
        assert today in text
        text = text.replace(f"{today}:", f"{old}:") if ":" not in today else text.replace(today, old)
    (run / "config.yaml").write_text(text.replace("callbacks: []\n", "").replace("fit: pad\n", ""))


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory, pictures):
    """(a finished run, the same one stopped in its second epoch and rewritten as an older hearth left it)."""
    small = [f"--train-data-root={pictures}", "--image-size=32", "--batch-size=3", "--num-workers=0", NO_SERVER]
    small += ["--model=SqueezeNet", "--precision=fp32", "--max-epoch=2", "--ema=0.9", "--color-jitter=0.3"]
    small += ["--random-erasing=0.2", "--crop-min-scale=0.5", "--on-bad=rollback", "--max-bad-steps=7"]
    calm, stopped = tmp_path_factory.mktemp("calm"), tmp_path_factory.mktemp("stopped")
    assert server().run("train", *small, cwd=calm, first=NO_REPORTS) == 0, (calm / "output").read_text()
    stops = """
import os, signal
from utils.watch import Curves

def on_batch_end(self, **_):
    if self.run.step == 13:
        os.kill(os.getpid(), signal.SIGTERM)

Curves.on_batch_end = on_batch_end
"""
    assert server().run("train", *small, cwd=stopped, first=NO_REPORTS + stops) == 128 + signal.SIGTERM
    make_old(only_run(stopped))
    return only_run(calm), only_run(stopped)


def test_a_run_of_an_older_hearth_resumes_in_the_same_bits(two_runs, tmp_path):
    calm, stopped = two_runs
    run = shutil.copytree(stopped, tmp_path / "checkpoints" / stopped.name)
    assert server().run("train", "--resume", cwd=tmp_path, first=NO_REPORTS) == 0, (tmp_path / "output").read_text()
    assert "after 1 epoch and 4 batches" in (tmp_path / "output").read_text()
    for name in ("last.pth", "best.pth"):
        one, other = read_checkpoint(calm / name), read_checkpoint(run / name)
        infos = [file.pop("info") for file in (one, other)]
        if name == "last.pth":
            assert infos[0] == infos[1]
        for key in ("format", "hearth"):  # the best weights may still be those that the older one has kept
            one.pop(key)
            other.pop(key, None)
        assert differences(one, other) == []
    tables = [[{n: v for n, v in row.items() if "seconds" not in n} for row in rows(one)] for one in (calm, run)]
    assert tables[0] == tables[1]


def test_a_checkpoint_of_an_older_hearth_is_measured_as_todays(two_runs, tmp_path):
    _, stopped = two_runs
    shutil.copy(stopped / "best.pth", tmp_path / "old.pth")
    content = read_checkpoint(stopped / "best.pth")
    assert "format" not in content
    write_checkpoint(content, tmp_path / "new.pth")
    options = ("val", "--show-options")
    shown = [main(*options, f"--load-model-path={name}.pth", cwd=tmp_path, check=0).stdout for name in ("old", "new")]
    measured = [[line for line in text.splitlines() if line.startswith("val_")] for text in shown]
    assert measured[0] == measured[1] and any("val_accuracy" in line for line in measured[0])
    assert all("color_jitter: 0.3" in text and "on_bad: rollback" in text for text in shown)
    assert all("  fit: pad\n" in text for text in shown), "it is about masks alone"


def test_a_checkpoint_of_a_newer_hearth_is_one_line_and_stays(two_runs, tmp_path):
    calm, _ = two_runs
    run = shutil.copytree(calm, tmp_path / "checkpoints" / calm.name)
    shutil.copy(run / "last.pth", run / "previous.pth")  # as of a run that was killed
    for name in ("best.pth", "last.pth"):
        write_checkpoint({**read_checkpoint(run / name), "format": FORMAT + 1, "hearth": "9.8"}, run / name)
    kept = (run / "last.pth").read_bytes(), (run / "previous.pth").read_bytes()
    for command in (["val"], ["train", f"--resume={run}", "--max-epoch=3"]):
        (line,) = main(*command, cwd=tmp_path, check=2).stderr.splitlines()
        assert f".pth was written by hearth 9.8, which is newer than {VERSION}: update" in line
    assert kept == ((run / "last.pth").read_bytes(), (run / "previous.pth").read_bytes())
