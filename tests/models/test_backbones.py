"""torchvision's and timm's classifiers by name, and starting from somebody's weights."""

import functools
import http.server
import re
import threading

import pytest
import torch
from conftest import FAST, NO_SERVER, main

import models
from models.backbone import torchvision_names
from utils import UserError

SIZES = {"inception_v3": 96, "maxvit_t": 224, "vit_h_14": 70}  # all others: 64


def timm_or_skip():
    return pytest.importorskip("timm", reason="timm is not installed")


@pytest.mark.slow
def test_every_classifier_of_torchvision_takes_pictures_of_any_size(monkeypatch):
    """On the meta device: shapes without numbers, so that the largest ones cost nothing, and nothing to initialize.
    RegNets compute their widths from tensors, which needs numbers: of these the smallest two have to do."""
    for fill in re.findall(r"\b[a-z]\w*_\b", " ".join(dir(torch.nn.init))):
        monkeypatch.setattr(torch.nn.init, fill, lambda tensor, *_, **__: tensor)
    assert len(torchvision_names()) >= 80
    for name in torchvision_names():
        if name.startswith("regnet") and not name.endswith("400mf"):
            continue
        size = SIZES.get(name, 64)
        with torch.device("cpu" if name.startswith("regnet") else "meta"):
            model = getattr(models, name)(num_classes=5, image_size=size).eval()
            model.requires_grad_(False)
            assert model(torch.zeros(2, 3, size, size)).shape == (2, 5), name
        assert model.model_name == name
        model.freeze_body()
        free = [p for p in model.parameters() if p.requires_grad]
        assert 0 < len(free) <= 8 and any(5 in p.shape for p in free), name


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "resnest14d", "vit_tiny_patch16_224"])
def test_a_backbone_learns(name):
    if name.startswith(("resnest", "vit_tiny")):
        timm_or_skip()
    torch.manual_seed(0)
    model = getattr(models, name)(num_classes=3, image_size=64)
    optimizer = model.get_optimizer("SGD", lr=0.01, weight_decay=0.0, momentum=0.9)
    input, target = torch.randn(6, 3, 64, 64), torch.tensor([0, 1, 2, 0, 1, 2])
    seen = []
    for _ in range(8):
        optimizer.zero_grad()
        score, losses = model.objective(input, target)
        losses["loss"].backward()
        optimizer.step()
        seen.append(losses["loss"].item())
    assert score.shape == (6, 3) and seen[-1] < 0.7 * seen[0], seen


def test_a_frozen_body_keeps_its_statistics():
    model = models.resnet18(num_classes=2)
    model.freeze_body()
    before = model.net.layer4[1].bn2.running_mean.clone()
    model.train().objective(torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 0, 1]))
    assert torch.equal(model.net.layer4[1].bn2.running_mean, before) and model.net.fc.training


def test_width():
    def parameters(name, width):
        with torch.device("meta"):
            return sum(p.numel() for p in getattr(models, name)(num_classes=2, width=width).parameters())

    assert parameters("mobilenet_v2", 0.5) < 0.4 * parameters("mobilenet_v2", 1.0)
    assert parameters("resnet50", 2.0) > 2 * parameters("resnet50", 1.0)
    for name in ("resnet18", "densenet121", "efficientnet_b0"):
        with pytest.raises(UserError, match=f"{name} cannot be built for --width=0.5"):
            parameters(name, 0.5)


def test_a_model_that_asks_for_the_version_of_its_weights_is_loaded(tmp_path):
    one, other = (models.mnasnet0_5(num_classes=2).eval() for _ in range(2))
    one.save(tmp_path / "a.pth")
    other.load(tmp_path / "a.pth")
    assert torch.equal(one(torch.ones(1, 3, 64, 64)), other(torch.ones(1, 3, 64, 64)))


def test_a_size_that_a_model_cannot_have():
    with pytest.raises(UserError, match="vit_b_16 cannot be built for pictures of 100 pixels"):
        models.vit_b_16(num_classes=2, image_size=100)


def test_names_that_nobody_has():
    assert not hasattr(models, "resnet1000")


def test_by_name_on_the_command_line(tmp_path, pictures, unlabelled):
    """Trains, and val and test find the model again by the name in its checkpoint."""
    fast = [option for option in FAST if "model" not in option]
    options = ["--model=mobilenet_v2", "--width=0.35", *fast, "--max-epoch=1", f"--train-data-root={pictures}"]
    main("train", *options, cwd=tmp_path, check=0)
    assert "width: 0.35" in main("val", cwd=tmp_path, check=0).stdout
    main("test", f"--test-data-root={unlabelled}", cwd=tmp_path, check=0)
    assert len((tmp_path / "result.csv").read_text().splitlines()) == 13
    done = main("train", "--model=resnet43", NO_SERVER, cwd=tmp_path, check=2)
    assert "resnet34" in done.stderr and "torchvision or timm" in done.stderr


@pytest.fixture
def imagenet(tmp_path):
    """A file as torchvision publishes it: a plain state dict with a head for other classes."""
    from torchvision.models import resnet18

    torch.manual_seed(1)
    weights = resnet18(weights=None, num_classes=7).state_dict()
    torch.save(weights, tmp_path / "resnet18-f37072fd.pth")
    return tmp_path / "resnet18-f37072fd.pth", weights


def test_start_from_a_published_file(imagenet, capsys):
    path, weights = imagenet
    model = models.resnet18(num_classes=2)
    head = model.net.fc.weight.clone()
    model.load(path, partly=True)
    assert all(torch.equal(model.net.state_dict()[n], v) for n, v in weights.items() if not n.startswith("fc."))
    assert torch.equal(model.net.fc.weight, head)
    said = capsys.readouterr().out
    head_names = "net.fc.weight, net.fc.bias"
    assert f"120 of 122 weights taken; dropped: {head_names}; at their initial values: {head_names}\n" in said
    with pytest.raises(UserError, match="weights are missing, unknown or of another shape, 2 in all"):
        model.load(path)
    with pytest.raises(UserError, match="does not fit SqueezeNet"):
        models.SqueezeNet().load(path, partly=True)


def test_prefixes_of_wrapped_models_are_stripped(tmp_path):
    model = models.ResNet34(num_classes=2)
    torch.save({f"module.{name}": value for name, value in model.state_dict().items()}, tmp_path / "wrapped.pth")
    other = models.ResNet34(num_classes=2)
    other.load(tmp_path / "wrapped.pth")
    assert torch.equal(other.stem[0].weight, model.stem[0].weight)


def test_start_from_an_address(imagenet, tmp_path, monkeypatch):
    path, weights = imagenet
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=path.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        model = models.resnet18(num_classes=7)
        model.load(f"{address}/{path.name}")
        assert torch.equal(model.net.fc.weight, weights["fc.weight"])
        (path.parent / "other").mkdir()
        torch.save({name: value + 1 for name, value in weights.items()}, path.parent / "other" / path.name)
        model.load(f"{address}/other/{path.name}")  # of the same name
        assert torch.equal(model.net.fc.weight, weights["fc.weight"] + 1)
        with pytest.raises(UserError, match=r"nowhere.pth cannot be downloaded \(File not found\): fetch it elsewhere"):
            model.load(f"{address}/nowhere.pth")
        server.shutdown()
    with pytest.raises(UserError, match=r"other.pth cannot be downloaded \(.*refused.*\)"):
        model.load(f"{address}/other.pth")
