"""`export` writes a file that is proven equal, and val, test and predict take it."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from conftest import ROOT, main

import models
from utils import UserError
from utils.deploy.export import Shipped, to_onnx
from utils.deploy.onnx_file import described, make_session, open_exported
from utils.deploy.proof import prove

NUMBER = r"largest difference of a probability (\S+), 100 % equal decisions, accuracy (\S+) -> (\S+)\n"


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
    largest, before, after = re.search(NUMBER, printed).groups()
    assert float(largest) <= 1e-4 and before == after
    assert "batch of 1: " in printed and "batch of 4: " in printed
    facts = described({one.key: one.value for one in onnx.load(file).metadata_props}, "")
    assert facts["classes"] == ["cat", "dog"] and facts["task"] == "classification" and facts["run"] == trained[1].name
    assert (facts["preparation"]["width"], facts["preparation"]["height"]) == (32, 32) and len(facts["commit"]) == 40
    assert facts["config"]["dataset"] == "DogCat"
    assert [*file.parent.iterdir()] == [file]


def test_val_test_and_predict_take_the_file(exported, trained, unlabelled, tmp_path):
    folder, file, _ = exported
    before, after = (table(folder, unlabelled, one, "a.csv") for one in (trained[1] / "best.pth", file))
    assert after == pytest.approx(before, abs=1e-4) and len(after) == 12
    done = main("predict", f"--load-model-path={file}", f"--input={unlabelled / '3.jpg'}", "--format=json", cwd=folder)
    (line,) = map(json.loads, done.stdout.splitlines())
    assert {one["class"]: one["score"] for one in line["found"]}["dog"] == pytest.approx(before["3"], abs=1e-4)
    shown = [
        main(
            "val", f"--load-model-path={one}", f"--report-dir={tmp_path}", "--num-workers=0", cwd=folder, check=0
        ).stdout
        for one in (trained[1] / "best.pth", file)
    ]
    losses = [float(re.search(r"val_loss: (\S+)", text)[1]) for text in shown]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_what_is_wrong_with_a_file_is_one_line(exported, tmp_path):
    _, file, _ = exported
    (tmp_path / "cut.onnx").write_bytes(file.read_bytes()[:100_000])
    model = onnx.load(file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    for name, why in (("cut", "no whole ONNX model"), ("other", "not exported by hearth"), ("none", "no such file")):
        with pytest.raises(UserError, match=why):
            open_exported(tmp_path / f"{name}.onnx")
    with pytest.raises(UserError, match="takes pictures of 32x32 pixels, not 64x48"):
        models.OnnxFile(2, str(file))(torch.zeros(1, 3, 48, 64))
    with pytest.raises(UserError, match="cannot be trained"):
        models.OnnxFile(2)


def test_another_task_and_another_format_are_one_line(exported):
    folder, file, _ = exported
    done = main("test", f"--load-model-path={file}", "--dataset=MaskFolder", cwd=folder, check=2)
    assert "OnnxFile is for classification, --dataset=MaskFolder for segmentation" in done.stderr
    done = main("export", "--format=csv", cwd=folder, check=2)
    assert done.stderr == "main.py: --format=csv is what predict prints: export writes onnx\n"


class Counts:
    """A meter."""

    def add(self, *_):
        pass

    def summary(self):
        return {"accuracy": 0.0}


def test_a_model_that_differs_is_refused(capsys, monkeypatch):
    def proven(other):
        model = models.SqueezeNet(2).eval()
        data = type("Data", (), {"meter": lambda self: Counts(), "__len__": lambda self: 6})()
        answer = torch.tensor([[0.25, 0.75]])
        model.predict = lambda input: answer.expand(len(input), 2)
        exported = type("Exported", (), {"predict": lambda self, input: other.expand(len(input), 2)})()
        monkeypatch.setattr(
            "utils.deploy.proof.measured", lambda *_: [(torch.zeros(6, 3), None, answer.expand(6, 2), {})]
        )
        prove(model, exported, data, None)

    proven(torch.tensor([[0.25001, 0.74999]]))
    for other in ([[0.2504, 0.7496]], [[0.5001, 0.4999]], [[float("nan"), 0.75]]):
        with pytest.raises(SystemExit, match="1"):
            proven(torch.tensor(other))
    assert "not written" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["MLP", "UNet", "resnet18"])
def test_other_families_in_batches_of_1_2_and_5(name):
    torch.manual_seed(0)
    shape = (1, 2) if name == "MLP" else (32, 32, 3)
    model = (models.UNet(2, width=0.1) if name == "UNet" else getattr(models, name)(num_classes=2)).eval()
    shipped = Shipped(model, *(([], []) if name == "MLP" else ([0.5, 0.4, 0.3], [0.2, 0.3, 0.25]))).eval()
    inputs = torch.rand(5, *shape) if name == "MLP" else torch.randint(0, 256, (5, *shape), dtype=torch.uint8)
    session = make_session(to_onnx(shipped, inputs[:2], {"classes": "[]"}))
    for size in (1, 2, 5):
        with torch.inference_mode():
            expected = shipped(inputs[:size]).numpy()
        (found,) = session.run(None, {session.get_inputs()[0].name: inputs[:size].numpy()})
        assert np.abs(expected - found).max() < 1e-5


def test_the_program_of_the_documents_agrees(exported, unlabelled, trained):
    """docs/ship.md's, word for word: it resizes with Pillow and needs nothing of hearth."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ship.md").read_text(), re.DOTALL)
    assert len(code.splitlines()) <= 25
    folder, file, _ = exported
    pictures = [str(unlabelled / f"{number}.jpg") for number in range(1, 6)]
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), *pictures], capture_output=True, text=True, check=True
    )
    expected = models.load(str(trained[1])).predict_files(pictures, top=1)
    for line, one in zip(done.stdout.splitlines(), expected, strict=True):
        path, name, share = line.rsplit(None, 2)
        assert (path, name) == (one.path, one.found[0].name) and abs(float(share) - one.found[0].score) < 1e-2
