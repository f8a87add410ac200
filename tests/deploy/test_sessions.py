"""Files for other libraries than ONNX Runtime: what they predict, and what is wrong with them."""

import json
import re
import shutil
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch import nn

import config
import models
from data.pictures.augment import normalise
from models.basic_module import BasicModule
from utils import UserError
from utils.deploy.convert import to_pt2
from utils.deploy.export import FORMATS, Shipped, check, export
from utils.deploy.exported import open_exported
from utils.deploy.sessions import PACKAGES, open_pt2

SHIP = ROOT / "docs" / "ship.md"
FACTS = {
    "task": "classification",
    "loss": "cross_entropy",
    "classes": '["cat", "dog"]',
    "preparation": '{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "height": 15, "width": 33}',
    "config": '{"dataset": "DogCat", "image_size": "33x15"}',
}


def needs(kind):
    for name in PACKAGES[kind]:
        pytest.importorskip(name, reason=f"needs pip install {' '.join(PACKAGES[kind])}")


class Small(BasicModule):
    """A convolution, a BatchNorm that does something, a linear layer."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.classifier = nn.Linear(32, 2)
        nn.init.uniform_(self.features[1].running_mean), nn.init.uniform_(self.features[1].running_var, 0.5, 2)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


@pytest.fixture(scope="module", params=["openvino", "ncnn"])
def small(request, tmp_path_factory):
    """(a format, a file of it, the model that is in it)"""
    kind = request.param
    needs(kind)
    torch.manual_seed(0)
    model, how = Small().eval(), json.loads(FACTS["preparation"])
    shipped = Shipped(model, how["mean"], how["std"]).eval()
    file = tmp_path_factory.mktemp("small") / f"best.{kind}"
    file.write_bytes(FORMATS[kind][0](shipped, torch.zeros(2, 15, 33, 3, dtype=torch.uint8), FACTS))
    return kind, file, model


def test_other_libraries_say_what_the_model_says(small, unlabelled):
    kind, file, model = small
    pictures = torch.randint(0, 256, (5, 15, 33, 3), generator=torch.Generator().manual_seed(0)).byte()
    input = normalise(pictures.permute(0, 3, 1, 2))
    exported = models.ExportedFile(2, str(file))
    with torch.inference_mode():
        expected = model.predict(input)
        for size in (1, 5):
            torch.testing.assert_close(exported.predict(input[:size]), expected[:size], atol=1e-5, rtol=0)
    assert expected.std() > 1e-3, "not all are alike"
    with pytest.raises(UserError, match="takes pictures of 33x15 pixels, not 15x33"):
        exported(input.transpose(2, 3))
    model.info = models.load(str(file)).info | {"config": json.loads(FACTS["config"])}
    (found,), (same,) = (one.predict_files(unlabelled / "1.jpg") for one in (models.load(str(file)), model))
    assert {one.name: one.score for one in found.found} == pytest.approx({one.name: one.score for one in same.found})


@pytest.mark.parametrize("kind", ["openvino", "ncnn"])
def test_points_are_taken_too(kind):
    needs(kind)
    shipped, points = Shipped(models.MLP().eval(), [], []).eval(), torch.rand(5, 1, 2)
    session, _ = FORMATS[kind][1](FORMATS[kind][0](shipped, points[:2], FACTS))
    (found,) = session.run(None, {session.get_inputs()[0].name: points.numpy()})
    assert session.get_inputs()[0].shape[1:] == [1, 2]
    torch.testing.assert_close(torch.from_numpy(found), shipped(points).detach(), atol=1e-6, rtol=0)


def test_the_program_of_the_documents_says_it_too(small, tmp_path, monkeypatch):
    """docs/ship.md's, word for word but for the picture's size."""
    kind, file, model = small
    shutil.copy(file, tmp_path)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(rf"```python\n((?:(?!```).)*best.{kind}.*?)```", SHIP.read_text(), re.DOTALL)
    exec(code.replace("224, 224, 3", "15, 33, 3").replace("224, 224", "33, 15"), names := {})
    with torch.inference_mode():
        expected = model.predict(normalise(torch.zeros(1, 3, 15, 33, dtype=torch.uint8)))
    assert names["probabilities"].reshape(-1, 2)[-1] == pytest.approx(expected[0].numpy(), abs=1e-5)


def test_what_is_wrong_with_an_archive_is_one_line(small, tmp_path, capfd, monkeypatch):
    kind, file, _ = small
    content, names = file.read_bytes(), zipfile.ZipFile(file).namelist()
    damaged = bytearray(content)
    damaged[content.index(b"model.bin") + 40] ^= 1
    cases = {"cut": content[:-90], "damaged": bytes(damaged), "other": b"7767517\n2 2\n"}
    for left in names:  # one of its files is missing, or is another's
        for what, put in (("without", None), ("odd", b"{}")):
            with zipfile.ZipFile(tmp_path / "made", "w") as archive:
                for name in names:
                    if name != left or put:
                        archive.writestr(name, put if name == left else zipfile.ZipFile(file).read(name))
            cases[f"{what} {left}"] = (tmp_path / "made").read_bytes()
    for name, wrong in cases.items():
        (tmp_path / f"best.{kind}").write_bytes(wrong)
        with pytest.raises(UserError, match=rf"is no whole .{kind} model|was not exported by hearth") as error:
            open_exported(tmp_path / f"best.{kind}")
        assert "\n" not in str(error.value), name
    shutil.copy(file, tmp_path)
    monkeypatch.setitem(sys.modules, PACKAGES[kind][-1], None)
    with pytest.raises(UserError, match=rf"^.{kind} files need packages that are not installed: pip install "):
        models.load(str(tmp_path / file.name))
    assert capfd.readouterr() == ("", "")


def test_a_layer_that_ncnn_does_not_have_is_one_line(capfd):
    needs("ncnn")
    model = nn.Conv2d(3, 1, 1)
    model.decode = lambda x: torch.erfinv(x)
    shipped = Shipped(model, [0.5] * 3, [0.5] * 3)
    with pytest.raises(UserError, match=r"^ncnn cannot take this model: it has no layer for \S+erfinv; give another"):
        FORMATS["ncnn"][0](shipped, torch.zeros(2, 4, 4, 3, dtype=torch.uint8), FACTS)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("kind", "missing"), [(kind, name) for kind, names in PACKAGES.items() for name in names])
def test_a_missing_package_is_one_line_that_installs_it(kind, missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=f"not installed: pip install {' '.join(PACKAGES[kind])}$"):
        check(config.load({"format": kind}, None, "export"))


def test_a_detector_is_one_line_for_every_format(monkeypatch):
    monkeypatch.setattr("utils.deploy.export.installed", lambda kind: None)
    detector = SimpleNamespace(task="detection", model_name="SSD")
    for kind in FORMATS:
        opt = config.load({"format": kind}, None, "export")
        with pytest.raises(UserError, match="export does not write SSD: "):
            export(SimpleNamespace(load_trained=lambda opt: (opt, detector, None)), opt)


def test_a_program_of_torch_export_says_the_same_for_any_number_of_samples(tmp_path):
    torch.manual_seed(0)
    shipped, points = Shipped(models.MLP().eval(), [], []).eval(), torch.rand(5, 1, 2)
    (tmp_path / "a.pt2").write_bytes(to_pt2(shipped, points[:2], {"classes": "[]"}))
    (program, metadata), extra = open_pt2((tmp_path / "a.pt2").read_bytes()), {"hearth.json": ""}
    (input,) = program.get_inputs()
    assert input.shape[1:] == [1, 2]
    for size in (1, 5):
        (found,) = program.run(None, {input.name: points[:size].numpy()})
        assert np.abs(shipped(points[:size]).detach().numpy() - found).max() < 1e-6
    with pytest.raises(UserError, match="is a program of torch.export, which runs any code that is in it: give"):
        models.load(str(tmp_path / "a.pt2"))
    torch.export.load(tmp_path / "a.pt2", extra_files=extra)
    assert json.loads(extra["hearth.json"]) == metadata == {"classes": "[]"}
