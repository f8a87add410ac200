"""FCN and DeepLabV3: sizes, somebody else's weights, and a training that has to learn."""

import csv

import numpy as np
import pytest
import torch
from conftest import NO_SERVER, main
from drawn import draw_shapes
from PIL import Image
from runs import measures
from torch.nn import functional as F

import models
from models.submodules import UpConv
from utils import UserError
from utils.metrics.iou_meter import IoUMeter

BODIES = {"FCN": ("stem", "layer1", "layer2", "layer3", "layer4"), "DeepLabV3": ("net.backbone",)}
BODIES["UNet"] = "downs", "ups", "joins"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """40 pictures of three named classes; not to be changed by a test."""
    return draw_shapes(tmp_path_factory.mktemp("shapes") / "set", 40, ["ground", "disc", "bar"])


def test_train_val_and_test_through_the_command_line(shapes, tmp_path):
    """A narrow UNet learns the shapes in seconds; its pictures, tables and masks are those of the last epoch."""
    small = ["--image-size=64", "--crop-min-scale=0.5", "--batch-size=4", "--scheduler=constant", "--num-workers=0"]
    small += ["--model=UNet", "--width=0.25", "--lr=0.003"]
    command = ["--dataset=MaskFolder", f"--train-data-root={shapes}", "--max-epoch=4", "--draw-freq=2"]
    main("train", *command, *small, NO_SERVER, cwd=tmp_path, check=0, drawn=True)
    (run,) = (tmp_path / "checkpoints").iterdir()
    with open(run / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["val_iou"]) > 70, rows
    with open(run / "iou.csv", newline="") as file:
        table = {row["class"]: float(row["iou"]) for row in csv.DictReader(file)}
    assert list(table) == ["ground", "disc", "bar"]
    assert np.mean(list(table.values())) == pytest.approx(float(rows[-1]["val_iou"]), abs=0.01)
    assert (run / "confusion.png").exists()
    assert sorted(path.name for path in run.glob("train_batch_*")) == [f"train_batch_{n}.png" for n in range(4)]
    measured = measures(run)
    assert measured == pytest.approx(
        {name: float(rows[-1][f"val_{name}"]) for name in ("iou", "accuracy")}
        | {"val_loss": float(rows[-1]["val_loss"])}
    )
    strips = sorted((run / "images").iterdir())
    names = {path.name.rpartition("_")[0] for path in strips}  # of the batches 0 and 2
    assert names == {f"val_{batch:04d}_{number}" for batch in (0, 2) for number in range(4)}
    assert Image.open(strips[0]).size == (592, 264)  # enlarged, with headings and a legend of 3 classes and "ignored"

    broken = tmp_path / "new"
    broken.mkdir()
    (broken / "not.jpg").write_text("no picture")
    Image.open(shapes / "images" / "7.jpg").resize((144, 120)).save(broken / "large.png")
    main("test", f"--test-data-root={shapes},{broken}", "--result-file=masks.csv", cwd=tmp_path, check=0)
    with open(tmp_path / "masks.csv", newline="") as file:
        found = {row["id"]: row["mask"] for row in csv.DictReader(file)}
    assert set(found) == {*map(str, range(40)), "large", "not"} and found["not"] == ""
    overlap = IoUMeter(range(3))
    for number in range(40):
        mask = Image.open(tmp_path / found[str(number)])
        assert (mask.mode, mask.size) == ("P", (72, 60))
        scores = F.one_hot(torch.from_numpy(np.array(mask)).long(), 3).permute(2, 0, 1)[None]
        overlap.add(scores, torch.from_numpy(np.array(Image.open(shapes / "masks" / f"{number}.png")))[None].long())
    assert overlap.summary()["iou"] > 70  # at the pictures' own size too
    assert Image.open(tmp_path / "masks" / "large.png").size == (144, 120)

    assert f"val_iou: {max(float(row['val_iou']) for row in rows):.4g}\n" in main("val", cwd=tmp_path, check=0).stdout
    assert measures(run / "best_report").keys() == {"iou", "accuracy", "val_loss"}
    done = main("test", f"--test-data-root={shapes}", "--result-file=nothing", cwd=tmp_path, check=2)
    assert done.stderr.strip().splitlines()[-1].startswith("main.py: --result-file=nothing has no suffix")


def test_deeplab_trains_through_the_command_line(tmp_path):
    options = ["--dataset=MaskFolder", "--model=DeepLabV3", "--image-size=64", "--batch-size=4", "--max-epoch=1"]
    options += [f"--train-data-root={draw_shapes(tmp_path / 'set', 8)}", "--num-workers=0", NO_SERVER]
    options += ["--optimizer=SGD", "--momentum=0"]  # Adam would have 320 MB more to save
    main("train", *options, cwd=tmp_path, check=0)
    (run,) = (tmp_path / "checkpoints").glob("DeepLabV3_*")
    assert (run / "iou.csv").exists()


@pytest.mark.parametrize("name", BODIES)
def test_scores_have_the_pictures_size_whatever_it_is(name):
    model = getattr(models, name)(num_classes=3).eval()
    for height, width in ((64, 64), (33, 47), (50, 97)):
        with torch.inference_mode():
            assert model(torch.randn(1, 3, height, width)).shape == (1, 3, height, width)
    model.freeze_body()
    body = {id(p) for part in BODIES[name] for p in model.get_submodule(part).parameters()}
    assert {id(p) for p in model.parameters() if not p.requires_grad} == body


def test_unet_is_the_papers_network_and_comes_in_widths():
    sizes = [sum(p.numel() for p in models.UNet(2, width=width).parameters()) for width in (1.0, 0.125)]
    assert sizes[0] == 31_037_698 and sizes[0] / 8**2 < sizes[1] < 1.02 * sizes[0] / 8**2


def test_a_resnet_gives_fcn_its_body_and_torchvisions_checkpoint_fits_deeplab(tmp_path, capsys):
    from torchvision.models.segmentation import deeplabv3_resnet50

    body = models.ResNet34(num_classes=7)
    fcn = models.FCN(num_classes=3)
    fcn.load(body.save(tmp_path / "body.pth"), partly=True)
    weights = fcn.state_dict()
    shared = [name for name in body.state_dict() if not name.startswith("classifier.")]
    assert all(torch.equal(body.state_dict()[name], weights[name]) for name in shared) and len(shared) == 216
    assert "dropped: classifier.weight, classifier.bias" in capsys.readouterr().out

    other = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()
    torch.save(other.state_dict(), tmp_path / "other.pth")
    same = models.DeepLabV3(num_classes=21).eval()
    same.load(tmp_path / "other.pth", partly=True)
    input = torch.randn(1, 3, 40, 40)
    with torch.inference_mode():
        assert torch.equal(same(input), other(input)["out"])


def test_an_up_convolution_begins_as_bilinear_interpolation():
    features = torch.rand(2, 3, 5, 6)
    bilinear = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(UpConv(3)(features)[:, :, 1:-1, 1:-1], bilinear[:, :, 1:-1, 1:-1])


def test_deeplab_takes_one_picture_but_not_to_learn_from():
    model = models.DeepLabV3(num_classes=2)
    with pytest.raises(UserError, match="batch of one picture .* give --batch-size=2"):
        model(torch.randn(1, 3, 32, 32))
    assert model.eval().predict(torch.randn(1, 3, 32, 32)).shape == (1, 2, 32, 32)
