"""Files that hearth has not written: formats, parts of a file, addresses and torch.hub's folder."""

import argparse
import gzip
import hashlib
import io
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch

import config
import models
from benchmarks.faults_saving import Tiny
from utils import UserError
from utils.run import resume
from utils.run.checkpoint_file import read_checkpoint
from utils.run.others import downloaded
from utils.train import processes


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return file.getvalue()


def other_formats():
    """(file name, its bytes, what it is called)"""
    array, tar, script = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(array, a=np.ones(2))
    with tarfile.open(fileobj=tar, mode="w") as file:
        file.addfile(tarfile.TarInfo("a.pth"))
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), script)
    yield "weights.npz", array.getvalue(), "an archive of NumPy arrays"
    yield "a.pth", script.getvalue(), "a TorchScript program: save its weights, torch.save(torch.jit.load(file)"
    yield "model.keras", zipped(config_json="{}", model_weights_h5=""), "a model of Keras"
    yield "many.zip", zipped(a_pth="", b_pth=""), "a zip archive: unpack it"
    yield "model.h5", b"\x89HDF\r\n\x1a\n" + bytes(20), "an HDF5 file of Keras or TensorFlow"
    yield "model.tflite", b"\x20\0\0\0TFL3" + bytes(20), "a TensorFlow Lite model"
    yield "model.gguf", b"GGUF" + bytes(20), "a GGUF file"
    yield "saved_model.pb", b"\x08\x01\x12", "a TensorFlow graph"
    yield "model.ckpt.index", bytes(20), "a TensorFlow checkpoint's index"
    yield "model.onnx", b"\x08\x07\x12\x07pytorch", "an ONNX model"
    yield "best.openvino", zipped(**{"model.xml": "<net/>"}), "an OpenVINO model, not PyTorch's: give the .pth"
    yield "best.ncnn", zipped(**{"model.param": "7767517"}), "an ncnn model, not PyTorch's: give the .pth"
    yield "model.xml", b'<?xml version="1.0"?>\n<net>', "XML, no checkpoint: of OpenVINO's models"
    yield "model.param", b"7767517\n2 2", "ncnn's text, no checkpoint"
    yield "flax.msgpack", b"\x81\xa6", "a file of Flax"
    yield "a.pkl", b"\x80\x04}\x94.", "a plain pickle, not of torch.save"
    yield "a.pth", gzip.compress(b"a"), "a gzip archive: unpack it"
    yield "a.pth.tar", tar.getvalue(), "a tar archive: unpack it"
    yield "a.pth", b"\n<!DOCTYPE html><title>Sign in</title>", "a web page, no checkpoint"
    yield "a.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a pointer of Git LFS"
    yield "model.safetensors", b"\0" * 20, "not a whole checkpoint"


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_other_formats_are_refused_by_name(tmp_path):
    for name, content, what in other_formats():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as error:
            read_checkpoint(tmp_path / name)
        assert f"{name} is {what}" in str(error.value) and "\n" not in str(error.value)


def test_safetensors_are_read_and_without_their_library_the_way_to_it_is_said(tmp_path, monkeypatch):
    library = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    weights = dict(Tiny().state_dict())
    library.save_file(weights, tmp_path / "model.safetensors")
    found = read_checkpoint(tmp_path / "model.safetensors")["weights"]
    assert found.keys() == weights.keys() and all(torch.equal(found[name], one) for name, one in weights.items())
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    with pytest.raises(UserError, match="model.safetensors needs a library .*: pip install safetensors"):
        read_checkpoint(tmp_path / "model.safetensors")


def test_a_part_of_a_file_is_taken_by_its_name(tmp_path):
    one, other = Tiny(), Tiny()
    content = {"model": one.state_dict(), "model_ema": {f"module.{n}": v for n, v in other.state_dict().items()}}
    path = tmp_path / "a.pth"
    torch.save(content, path)
    assert len(read_checkpoint(path)["weights"]) == 14
    for part, model in (("model", one), ("model_ema.module", other)):
        found = read_checkpoint(f"{path}#{part}")["weights"]
        assert found.keys() == model.state_dict().keys()
        assert torch.equal(found["classifier.weight"], model.classifier.weight)
    with pytest.raises(UserError, match="a.pth has no part ema: its parts are model, model_ema$"):
        read_checkpoint(f"{path}#ema")
    path.rename(tmp_path / "a#b.pth")  # such names are files first
    assert len(read_checkpoint(tmp_path / "a#b.pth")["weights"]) == 14
    torch.save({"epoch": 3, "optimizer": {"state": {"a": torch.ones(1)}}}, path)
    with pytest.raises(UserError, match="holds no weights that hearth knows"):
        read_checkpoint(path)


NOWHERE = "http://127.0.0.1:9"  # nothing listens there


def test_torch_hubs_folder_is_used_where_the_address_is_out_of_reach(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    kept = tmp_path / "hub" / "checkpoints"
    kept.mkdir(parents=True)
    torch.save(Tiny().state_dict(), kept / "plain.pth")
    assert downloaded(f"{NOWHERE}/a/plain.pth") == kept / "plain.pth"
    assert (
        "plain.pth cannot be downloaded" in (said := capsys.readouterr().out) and f"taking {kept / 'plain.pth'}" in said
    )
    named = kept / f"tiny-{hashlib.sha256((kept / 'plain.pth').read_bytes()).hexdigest()[:8]}.pth"
    (kept / "plain.pth").rename(named)
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # not asked: the name proves what the file is
    assert downloaded(f"{NOWHERE}/{named.name}") == named and capsys.readouterr().out == ""
    (kept / "tiny-20200101.pth").write_bytes(b"another")  # a date
    with pytest.raises(TypeError):
        downloaded(f"{NOWHERE}/tiny-20200101.pth")


def test_a_training_starts_from_a_file_with_classes_in_it(tmp_path, capsys):
    """The file of torchvision's reference script: what main.train gives to the model."""
    net = models.SqueezeNet(num_classes=2)
    content = {"model": net.state_dict(), "model_ema": net.state_dict(), "args": argparse.Namespace(lr=0.1), "epoch": 9}
    torch.save(content, tmp_path / "model_89.pth")
    options = {"load_model_path": str(tmp_path / "model_89.pth"), "work_dir": str(tmp_path)}
    opt, start = resume.resolve(config.load(options, None, "train"), processes.ALONE)
    models.SqueezeNet(num_classes=2).load(opt.load_model_path, partly=True, content=start)
    said = capsys.readouterr().out.replace(f"{tmp_path}/", "")
    assert "model_89.pth: all 52 weights taken from model, the head too, whose classes the file does not name" in said
    assert "  model_ema fits as well: model_89.pth#model_ema takes that" in said
    assert "  not read, as nothing of a file is run: args (argparse.Namespace)" in said
    for name in (f"{options['load_model_path']}#model_ema", options["load_model_path"]):
        opt, content = resume.trained(config.load({"load_model_path": name}, None, "val"))
        assert opt.load_model_path == name and len(content["weights"]) == (52 if "#" in name else 104)
