"""`export` writes a file that is proven equal, and val, test and predict take it."""

import csv
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, main
from PIL import Image
from torch import nn
from visdom_helper import browser, devtools, wait_for

import config
import main as program
import models
from models.basic_module import BasicModule
from utils import UserError
from utils.deploy.convert import halved, to_onnx
from utils.deploy.export import Shipped, check, export
from utils.deploy.exported import described, open_exported
from utils.deploy.proof import prove
from utils.deploy.sessions import open_onnx
from utils.run.resume import trained as trained_model

SHIP = ROOT / "docs" / "ship.md"
ROW = r"\ncheckpoint +(\S+) .*\nonnx +(\S+) +(\S+) +100 % +[\d.]+ +[\d.]+\n"  # accuracy, accuracy, largest difference


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """(the folder of the run, the .onnx file of its best.pth, what export printed)"""
    file = tmp_path_factory.mktemp("exported") / "cats.onnx"
    done = main("export", f"--output={file}", cwd=trained[0], check=0)
    return trained[0], file, done.stdout


def table(folder, unlabelled, checkpoint, name):
    main(
        "test",
        f"--test-data-root={unlabelled}",
        f"--load-model-path={checkpoint}",
        f"--result-file={name}",
        "--num-workers=0",
        cwd=folder,
        check=0,
    )
    return {row["id"]: float(row["label"]) for row in csv.DictReader((folder / name).open())}


def test_export_is_proven_equal_and_says_what_it_is(exported, trained):
    folder, file, printed = exported
    before, after, largest = re.search(ROW, printed).groups()
    assert float(largest) <= 1e-4 and before == after
    assert "ms for 1  ms for 4\n" in re.sub(" {2,}", "  ", printed)
    facts = described({one.key: one.value for one in onnx.load(file).metadata_props}, "")
    assert facts["classes"] == ["cat", "dog"] and facts["task"] == "classification" and facts["run"] == trained[1].name
    assert (facts["preparation"]["width"], facts["preparation"]["height"]) == (32, 32) and len(facts["commit"]) == 40
    assert facts["config"]["dataset"] == "DogCat" and not {"output", "load_model_path"} & facts["config"].keys()
    assert [*file.parent.iterdir()] == [file]


def test_val_test_and_predict_take_the_file(exported, trained, unlabelled, tmp_path):
    folder, file, _ = exported
    before, after = (table(folder, unlabelled, one, "a.csv") for one in (trained[1] / "best.pth", file))
    assert after == pytest.approx(before, abs=1e-4) and len(after) == 12
    done = main("predict", f"--load-model-path={file}", f"--input={unlabelled / '3.jpg'}", "--format=json", cwd=folder)
    (line,) = map(json.loads, done.stdout.splitlines())
    assert {one["class"]: one["score"] for one in line["found"]}["dog"] == pytest.approx(before["3"], abs=1e-4)
    copy = shutil.copytree(trained[1], tmp_path / trained[1].name)  # the reports lie beside the checkpoints
    shown = [
        main("val", f"--load-model-path={one}", "--num-workers=0", cwd=folder, check=0).stdout
        for one in (copy / "best.pth", file)
    ]
    assert "cats.onnx_report" in shown[1] and "/best_report" in shown[0], "neither takes the other's place"
    (found,) = models.load(str(file)).predict_files([unlabelled / "3.jpg"])
    assert {one.name: one.score for one in found.found}["dog"] == pytest.approx(before["3"], abs=1e-4)
    losses = [float(re.search(r"val_loss: (\S+)", text)[1]) for text in shown]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_what_is_wrong_with_a_file_is_one_line(exported, tmp_path):
    _, file, _ = exported
    (tmp_path / "cut.onnx").write_bytes(file.read_bytes()[:100_000])
    model = onnx.load(file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    for key, value in {"task": "", "loss": "", "classes": '["a"]', "config": "{}", "preparation": "[]"}.items():
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, tmp_path / "odd.onnx")
    other = "not exported by hearth"
    for name, why in (("cut", "no whole .onnx model"), ("other", other), ("odd", other), ("none", "no such file")):
        with pytest.raises(UserError, match=why):
            open_exported(tmp_path / f"{name}.onnx")
    with pytest.raises(UserError, match="takes pictures of 32x32 pixels, not 64x48"):
        models.ExportedFile(2, str(file))(torch.zeros(1, 3, 48, 64))
    with pytest.raises(UserError, match="cannot be trained"):
        models.ExportedFile(2)


def test_another_task_and_another_format_are_one_line(exported):
    folder, file, _ = exported
    done = main("test", f"--load-model-path={file}", "--dataset=MaskFolder", cwd=folder, check=2)
    assert "ExportedFile is for classification, --dataset=MaskFolder for segmentation" in done.stderr
    for command in ("export", "doctor"):
        with pytest.raises(UserError, match=f"which val, test and predict take: give {command} its .pth"):
            trained_model(config.load({"load_model_path": str(file)}, None, command))
    done = main("export", "--format=csv", cwd=folder, check=2)
    assert done.stderr == "main.py: --format=csv is what predict prints: export writes onnx, openvino, ncnn, pt2\n"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"output": "best.pth"}, "best.pth: end it with .onnx"),
        ({"output": "a.onnx", "format": "pt2"}, "a.onnx: end it with .pt2"),
        ({"half": "True", "int8": "True"}, "give one of them"),
        ({"half": "True", "format": "pt2"}, "are for ONNX files"),
    ],
)
def test_options_of_export_that_do_not_fit_are_one_line(given, why):
    with pytest.raises(UserError, match=why):
        check(config.load(given, None, "export"))


class Accuracy:
    """A meter: the share of samples whose second class is the more probable one, %."""

    def __init__(self):
        self.right = []

    def add(self, prediction, target):
        self.right += (prediction[:, 1] > prediction[:, 0]).tolist()

    def summary(self):
        return {"accuracy": 100 * float(np.mean(self.right))}


def proven(monkeypatch, **rows):
    """Prove exported models that answer these rows, where the checkpoint answers 0.25, 0.75."""

    def model(row):
        return SimpleNamespace(predict=lambda input: torch.tensor([row]).expand(len(input), 2))

    start = torch.zeros(6, 3)
    checkpoint = model([0.25, 0.75])
    monkeypatch.setattr("utils.deploy.proof.measured", lambda *_: [(start, None, checkpoint.predict(start), {})])
    data = type("Data", (), {"meter": lambda self: Accuracy(), "__len__": lambda self: 6})()
    prove(checkpoint, {name: model(row) for name, row in rows.items()}, data, None)


def test_a_model_that_differs_is_refused(capsys, monkeypatch):
    same = [0.25001, 0.74999]
    proven(monkeypatch, onnx=same)
    proven(monkeypatch, onnx=same, int8=[0.4, 0.6])
    for rows in ({"onnx": [0.2504, 0.7496]}, {"onnx": [float("nan"), 0.75]}):
        with pytest.raises(SystemExit, match="1"):
            proven(monkeypatch, **rows)
        assert "not written: the exported model differs from the checkpoint by more than" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        proven(monkeypatch, onnx=same, int8=[float("-inf"), 0.75])
    assert "int8 loses 0.00 of accuracy and gives numbers that are not finite" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1"):
        proven(monkeypatch, onnx=same, int8=[0.6, 0.4])
    assert capsys.readouterr().err == (
        "not written: int8 loses 100.00 of accuracy, at most 1 is allowed: leave it out\n"
    )


def test_int8_without_its_training_samples_says_so(trained, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(trained[0])
    options = {"train_data_root": f"{tmp_path}/gone", "val_data_root": str(pictures), "int8": True, "num_workers": 0}
    given = {"run": str(trained[1]), "output": f"{tmp_path}/a.onnx", **options}
    with pytest.raises(UserError, match=f"^--train-data-root.*{tmp_path}/gone"):
        export(program, config.load(given, None, "export"))


def test_smaller_weights_are_measured_beside_the_others_and_have_the_same_inputs(exported, tmp_path):
    folder, file, _ = exported
    done = main("export", "--int8", f"--output={tmp_path / 'a.onnx'}", cwd=folder, check=0)
    accuracy, largest = re.search(r"\n--int8 +(\S+) +(\S+) ", done.stdout).groups()
    assert accuracy == re.search(ROW, done.stdout)[1] and 0 < float(largest) < 0.1
    pictures = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    whole, half, small = file.read_bytes(), halved(file.read_bytes()), (tmp_path / "a.onnx").read_bytes()
    assert len(half) < 0.6 * len(whole) and len(small) < 0.4 * len(whole)
    (expected,) = open_onnx(whole)[0].run(None, {"pictures": pictures})
    for content, limit in ((half, 1e-2), (small, 1e-1)):
        (found,) = open_onnx(content)[0].run(None, {"pictures": pictures})
        assert found.dtype == np.float32 and 0 < np.abs(found - expected).max() < limit


class Odd(BasicModule):
    """What exporters stumble over: pooling to sides that divide nothing, and attention."""

    def __init__(self, num_classes):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.AdaptiveAvgPool2d((6, None)), nn.AdaptiveAvgPool2d(3))
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.classifier = nn.Linear(72, num_classes)

    def forward(self, x):
        return self.classifier(self.attention(self.features(x).flatten(2).permute(0, 2, 1)).flatten(1))


@pytest.mark.parametrize("made", [models.MLP, lambda _: models.UNet(2, width=0.1), Odd], ids=["MLP", "UNet", "Odd"])
def test_other_families_in_batches_of_1_2_and_5(made, capfd):
    torch.manual_seed(0)
    name, model = made.__name__, made(2).eval()
    shape = (1, 2) if name == "MLP" else (32, 32, 3)
    shipped = Shipped(model, *(([], []) if name == "MLP" else ([0.5, 0.4, 0.3], [0.2, 0.3, 0.25]))).eval()
    inputs = torch.rand(5, *shape) if name == "MLP" else torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    session, _ = open_onnx(to_onnx(shipped, inputs[:2], {"classes": "[]"}))
    for size in (1, 2, 5):
        with torch.inference_mode():
            expected = shipped(inputs[:size]).numpy()
        (found,) = session.run(None, {session.get_inputs()[0].name: inputs[:size].numpy()})
        assert np.abs(expected - found).max() < 1e-5
    assert capfd.readouterr() == ("", "")


def test_what_torch_cannot_export_is_one_line_and_nothing_else_is_printed(capfd):
    model = nn.Conv2d(3, 1, 1)
    model.decode = lambda x: torch.linalg.eigvals(x.float())
    with pytest.raises(UserError, match=r"^torch cannot export this model: [^.\n]*eigvals[^.\n]*$"):
        to_onnx(Shipped(model, [0.5] * 3, [0.5] * 3), torch.zeros(2, 4, 4, 3, dtype=torch.uint8), {})
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def shown(unlabelled, tmp_path):
    """Pictures whose middle alone shows what they are: a cat between dogs, wide, and a dog between cats, high."""
    dog, cat = (np.asarray(Image.open(unlabelled / f"{number}.jpg").resize((90, 90))) for number in (1, 2))
    Image.fromarray(np.hstack([dog, cat, dog])).save(tmp_path / "wide.png")
    Image.fromarray(np.vstack([cat, dog, cat])).save(tmp_path / "high.png")
    Image.fromarray(np.hstack([dog, cat])).save(tmp_path / "both.png")
    return [str(tmp_path / f"{name}.png") for name in ("wide", "high", "both")]


def agrees(lines, pictures, trained):
    """Whether lines of path or name, class and probability are what predict says."""
    expected = models.load(str(trained[1])).predict_files(pictures, top=1)
    for line, one in zip(lines, expected, strict=True):
        name, label, share = line.rsplit(None, 2)
        best = one.found[0]
        assert (Path(name).name, label) == (Path(one.path).name, best.name) and abs(float(share) - best.score) < 1e-2
    assert {one.found[0].name for one in expected} == {"cat", "dog"} and min(
        one.found[0].score for one in expected
    ) < 0.99


def test_the_program_of_the_documents_agrees(exported, shown, trained):
    """docs/ship.md's, word for word: it resizes with Pillow and needs nothing of hearth."""
    code = re.search(r"```python\n(.*?)```", SHIP.read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) <= 25
    command = [sys.executable, "-c", code, str(exported[1]), *shown]
    agrees(subprocess.check_output(command, text=True).splitlines(), shown, trained)


@pytest.mark.skipif(not browser() or not shutil.which("npm"), reason="needs chromium and npm")
def test_the_page_of_the_documents_agrees(exported, shown, trained, tmp_path):
    """docs/ship.html, in the folder that docs/ship.md makes for it."""
    for path, name in [(ROOT / "docs" / "ship.html", "index.html"), (exported[1], "model.onnx")]:
        shutil.copy(path, tmp_path / name)
    commands = re.search(r"```bash\n(npm .*?)python -m http", SHIP.read_text(), re.DOTALL)[1]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["bash", "-ec", commands], cwd=tmp_path, check=True, env={**os.environ, "PATH": path})
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/#{','.join(Path(path).name for path in shown)}"
        with devtools(url, tmp_path) as evaluate:
            text = "document.querySelector('pre').textContent"
            lines = wait_for(lambda: len(found := (evaluate(text) or "").splitlines()) == len(shown) and found)
        server.shutdown()
    agrees(lines, shown, trained)


def test_another_format_is_proven_in_the_same_way(trained, tmp_path):
    pytest.importorskip("pnnx", reason="needs pip install pnnx ncnn")
    file = tmp_path / "best.ncnn"
    done = main("export", "--format=ncnn", f"--output={file}", cwd=trained[0], check=0)
    before, after, largest = re.search(ROW.replace("onnx", "ncnn"), done.stdout).groups()
    assert float(largest) <= 1e-4 and before == after
    assert open_exported(file)[1]["run"] == trained[1].name and [*tmp_path.iterdir()] == [file]


@pytest.mark.skipif("NCNN" not in os.environ, reason="needs ncnn, built as docs/ship.md says, in the folder $NCNN")
def test_the_program_in_cpp_of_the_documents_agrees(shown, trained, tmp_path):
    main("export", "--format=ncnn", f"--output={tmp_path / 'best.ncnn'}", cwd=trained[0], check=0)
    shutil.unpack_archive(tmp_path / "best.ncnn", tmp_path, "zip")
    (tmp_path / "ship.cpp").write_text((ROOT / "docs" / "ship.cpp").read_text().replace("224", "32"))
    compiler = re.search(r"\n(g\+\+ .*)\n", SHIP.read_text())[1].replace("$HOME/ncnn", os.environ["NCNN"])
    subprocess.run(["bash", "-ec", compiler], cwd=tmp_path, check=True)
    command = [tmp_path / "ship", "model", "cat", "dog", "--", *shown]
    lines = subprocess.check_output(command, cwd=tmp_path, text=True).splitlines()
    agrees(lines, shown, trained)
