"""Segmentation: folders of pictures and masks, IoU, FCN and DeepLabV3, and a training that has to learn."""

import csv
import math

import numpy as np
import pytest
import torch
from conftest import NO_SERVER, main
from PIL import Image, ImageDraw
from sklearn.metrics import jaccard_score
from torch.nn import functional as F

import models
from data import MaskFolder
from data.augment import denormalise
from data.base import refuse_broken
from models.basic_module import ModelError
from models.submodules import UpConv
from utils import UserError
from utils.iou_meter import IoUMeter

COLOURS = np.array([[90, 90, 90], [210, 60, 50], [50, 80, 210]])  # of the ground, discs (1) and bars (2)


def draw_shapes(root, count, names=None, size=(72, 60)):
    """`count` noisy pictures 0.jpg, ... of a disc in front of a bar, with their masks; returns the folder."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        mask = Image.new("L", size)
        pen = ImageDraw.Draw(mask)
        left, top, x, y = (int(rng.integers(0, limit - 30)) for limit in (*size, *size))
        pen.rectangle((left, top, left + rng.integers(18, 28), top + rng.integers(14, 22)), fill=2)
        pen.ellipse((x, y, x + 24, y + 24), fill=1)
        pixels = COLOURS[np.array(mask)] + rng.integers(-40, 40, (size[1], size[0], 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / "images" / f"{number}.jpg", quality=92)
        mask.save(root / "masks" / f"{number}.png")
    if names:
        (root / "class_name.txt").write_text("\n".join(names) + "\n")
    return root


def spoil(root, number, mask):
    """Put another mask, a numpy array, in the place of one."""
    Image.fromarray(mask).save(root / "masks" / f"{number}.png")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """40 pictures of three named classes; not to be changed by a test."""
    return draw_shapes(tmp_path_factory.mktemp("shapes") / "set", 40, ["ground", "disc", "bar"])


def test_train_val_and_test_through_the_command_line(shapes, tmp_path):
    """FCN learns the shapes in seconds; the pictures, tables and masks that it leaves are those of the last epoch."""
    small = [
        "--image-size=64",
        "--min-crop=0.5",
        "--batch-size=4",
        "--scheduler=constant",
        "--num-workers=0",
        NO_SERVER,
    ]
    command = ["--dataset=MaskFolder", "--model=FCN", f"--train-data-root={shapes}", "--max-epoch=5", "--draw-freq=2"]
    main("train", *command, *small, cwd=tmp_path, check=0)
    (run,) = (tmp_path / "checkpoints").iterdir()
    with open(run / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[-1]["val_iou"]) > 70, rows
    with open(run / "iou.csv", newline="") as file:
        table = {row["class"]: float(row["iou"]) for row in csv.DictReader(file)}
    assert list(table) == ["ground", "disc", "bar"]
    assert np.mean(list(table.values())) == pytest.approx(float(rows[-1]["val_iou"]), abs=0.01)
    assert (run / "confusion.png").exists()
    strips = sorted((run / "images").iterdir())
    names = {path.name.rpartition("_")[0] for path in strips}  # of the batches 0 and 2
    assert names == {f"val_{batch:04d}_{number}" for batch in (0, 2) for number in range(4)}
    assert Image.open(strips[0]).size == (3 * 64 + 4, 64)

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

    done = main("test", f"--test-data-root={shapes}", "--result-file=nothing", cwd=tmp_path, check=2)
    assert done.stderr.strip().splitlines()[-1].startswith("main.py: --result-file=nothing has no suffix")


def test_deeplab_trains_through_the_command_line(tmp_path):
    options = [
        "--dataset=MaskFolder",
        "--model=DeepLabV3",
        "--image-size=64",
        "--batch-size=4",
        "--max-epoch=1",
        NO_SERVER,
    ]
    main(
        "train",
        f"--train-data-root={draw_shapes(tmp_path / 'set', 8)}",
        *options,
        "--num-workers=0",
        cwd=tmp_path,
        check=0,
    )
    (run,) = (tmp_path / "checkpoints").glob("DeepLabV3_*")
    assert (run / "iou.csv").exists()


@pytest.mark.parametrize("name", ["FCN", "DeepLabV3"])
def test_scores_have_the_pictures_size_whatever_it_is(name):
    model = getattr(models, name)(num_classes=3).eval()
    for height, width in ((64, 64), (33, 47), (50, 97)):
        with torch.inference_mode():
            assert model(torch.randn(1, 3, height, width)).shape == (1, 3, height, width)
    model.freeze_body()
    trained = {name.split(".")[-3] for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith(f"{model.head}.") for name, p in model.named_parameters() if p.requires_grad)


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
    with pytest.raises(ModelError, match="batch of one picture .* give --batch-size=2"):
        model(torch.randn(1, 3, 32, 32))
    assert model.eval().predict(torch.randn(1, 3, 32, 32)).shape == (1, 2, 32, 32)


def test_iou_by_hand():
    """Truth 0 0 1 1 2 and a 255; predicted 0 1 1 1 0 and a 3: IoU 1/3, 2/3, 0; class 3 occurs nowhere that counts."""
    meter = IoUMeter(["a", "b", "c", "d"])
    assert all(math.isnan(value) for value in meter.summary().values()) and list(meter.summary()) == ["iou", "accuracy"]
    target = torch.tensor([[[0, 0, 1], [1, 2, 255]]])
    predicted = torch.tensor([[[0, 1, 1], [1, 0, 3]]])
    meter.add(F.one_hot(predicted, 4).permute(0, 3, 1, 2).bfloat16(), target)
    assert meter.summary() == {"iou": pytest.approx(100 * (1 / 3 + 2 / 3 + 0) / 3), "accuracy": pytest.approx(60.0)}
    assert meter.value().tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_iou_agrees_with_scikit_learn(dtype, tmp_path):
    generator = torch.Generator().manual_seed(0)
    meter, truth, predicted = IoUMeter("abcde"), [], []
    for _ in range(3):
        scores = torch.randn(2, 5, 9, 7, generator=generator).to(dtype)
        target = torch.randint(0, 5, (2, 9, 7), generator=generator)
        target[torch.rand(target.shape, generator=generator) < 0.2] = 255
        meter.add(scores, target)
        truth.append(target[target != 255])
        predicted.append(scores.argmax(dim=1)[target != 255])
    truth, predicted = torch.cat(truth), torch.cat(predicted)
    assert meter.summary()["iou"] == pytest.approx(100 * jaccard_score(truth, predicted, average="macro"))
    assert meter.summary()["accuracy"] == pytest.approx(100 * (truth == predicted).double().mean().item())
    again = IoUMeter("abcde")
    again.load_state_dict(meter.state_dict())
    assert again.summary() == meter.summary()
    meter.report(tmp_path)
    with open(tmp_path / "iou.csv", newline="") as file:
        table = [(row["class"], float(row["iou"]), int(row["true pixels"])) for row in csv.DictReader(file)]
    expected = 100 * jaccard_score(truth, predicted, average=None)
    assert [share for _, share, _ in table] == pytest.approx(expected, abs=0.005)
    assert [count for *_, count in table] == torch.bincount(truth).tolist()
    assert (tmp_path / "confusion.csv").exists() and (tmp_path / "confusion.png").exists()


def test_items_are_whole_pictures_split_by_name(shapes):
    train, val = (MaskFolder(shapes, mode, image_size=56) for mode in ("train", "val"))
    assert (len(train), len(val)) == (28, 12) and train.classes == val.classes == ["ground", "disc", "bar"]
    assert not {sample.path for sample in train.samples} & {sample.path for sample in val.samples}
    for data, size in ((train, 64), (val, 56)):
        picture, mask = data[0]
        assert picture.shape == (3, size, size) and mask.shape == (size, size)
        assert picture.dtype == mask.dtype == torch.uint8 and set(mask.unique().tolist()) <= {0, 1, 2}
    assert len(MaskFolder(shapes, "val", image_size=56, val_size=5)) == 5
    elsewhere = MaskFolder(shapes, "val", image_size=56, val_data_root=[str(shapes)])
    assert len(elsewhere) == len(MaskFolder(shapes, "train", image_size=56, val_data_root=[str(shapes)])) == 40


def test_crops_and_flips_move_picture_and_mask_alike(tmp_path):
    """Without noise every pixel's colour says its class: after the augmentation it still does. There is no class
    between 0, 2 and 255: to mix them would make some."""
    root = draw_shapes(tmp_path / "set", 2, ["ground", "disc", "bar"])
    for number in range(2):
        mask = np.array(Image.open(root / "masks" / f"{number}.png"))
        Image.fromarray(COLOURS[mask].astype(np.uint8)).save(root / "images" / f"{number}.png")
        spoil(root, number, np.where(mask == 1, 255, mask).astype(np.uint8))
        (root / "images" / f"{number}.jpg").unlink()
    train = MaskFolder(root, "train", image_size=64, min_crop=0.3, val_data_root=[root])
    input, target = (torch.stack(batch * 8) for batch in zip(train[0], train[1], strict=True))
    input, target = train.prepare(input, target, torch.Generator().manual_seed(0))
    input = denormalise(input)
    assert input.shape == (16, 3, 64, 64) and target.shape == (16, 64, 64) and target.dtype == torch.int64
    distance = (input.permute(0, 2, 3, 1)[..., None, :] * 255 - torch.tensor(COLOURS)).abs().sum(dim=-1)
    assert (distance.argmin(dim=-1) == torch.where(target == 255, 1, target)).float().mean() > 0.97  # but at edges
    assert set(target.unique().tolist()) == {0, 2, 255} == set(train[0][1].unique().tolist())
    assert len({tuple(mask.flatten().tolist()) for mask in target}) == 16


def test_drawn_strips_show_picture_prediction_and_truth(shapes):
    val = MaskFolder(shapes, "val", image_size=64)
    input, target = val.prepare(*(torch.stack(part) for part in zip(*(val[i] for i in range(6)), strict=True)), None)
    target[0, :8] = 255
    strips = val.draw(input, target, F.one_hot(target % 255, 3).permute(0, 3, 1, 2).float())
    assert len(strips) == 4 and {(strip.dtype, strip.shape) for strip in strips} == {(torch.uint8, (3, 64, 196))}
    assert torch.equal(strips[0][:, :, :64], val[0][0])
    assert torch.equal(strips[1][:, :, 66:130], strips[1][:, :, 132:])
    assert strips[0][:, 0, 132].tolist() == [224, 224, 192] and strips[0][:, 0, 66].tolist() == [0, 0, 0]


def test_masks_that_cannot_be_used_are_left_out_and_named(tmp_path, capsys):
    root = draw_shapes(tmp_path / "set", 60, ["ground", "disc", "bar"])
    blank = np.zeros((60, 72), np.uint8)
    spoil(root, 0, blank[:30])
    spoil(root, 1, blank + 7)
    spoil(root, 2, np.stack([blank] * 3, axis=2))
    spoil(root, 3, blank + 255)
    spoil(root, 4, blank.astype(np.uint16) + 700)
    (root / "masks" / "5.png").write_bytes((root / "masks" / "5.png").read_bytes()[:60])
    (root / "images" / "6.jpg").write_text("no picture")
    (root / "masks" / "7.png").unlink()
    (root / "images" / "8.jpg").unlink()
    spoil(root, 9, blank > 0)  # black and white
    palette = Image.open(root / "masks" / "10.png").convert("P")
    palette.putpalette(bytes(range(30)))
    palette.save(root / "masks" / "10.png")

    parts = [MaskFolder(root, mode, image_size=32) for mode in ("train", "val")]
    broken = sorted(str(path) for data in parts for path in data.broken)
    for line, text in zip(
        broken,
        [
            "6.jpg",
            "0.png (72x30, but its picture 72x60)",
            "1.png (a pixel is 7; the classes are 0 to 2",
            "2.png (it has col",
        ]
        + ["3.png (all 255", "4.png (a pixel is 700", "5.png"],
        strict=True,
    ):
        assert text in line
    assert sum(map(len, parts)) == 51  # 58 pairs, 7 of them broken
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(said) == 1 and said[0].startswith("note: 2 pictures without a mask or masks without a picture")
    assert "7.jpg" in said[0] and "8.png" in said[0]
    with pytest.raises(UserError, match="7 of 58"):
        refuse_broken(*parts)
    for data in parts:
        assert all(data[index][1].max() <= 2 for index in range(len(data)))


def test_classes_without_names_are_those_of_the_masks(tmp_path):
    root = draw_shapes(tmp_path / "set", 11)
    spoil(root, 10, np.full((60, 72), 700, np.uint16))  # no class of its own
    data = MaskFolder(root, "val", image_size=32, class_weights=True)
    assert data.classes == ["class 0", "class 1", "class 2"] and data.weights is None
    train = MaskFolder(root, "train", image_size=32, class_weights=True)
    pixels = np.concatenate([np.array(Image.open(sample.target)).ravel() for sample in train.samples])
    assert train.weights == pytest.approx([len(pixels) / (pixels == label).sum() for label in range(3)])

    other = draw_shapes(tmp_path / "other", 3)
    spoil(other, 1, np.full((60, 72), 3, np.uint8))
    val = MaskFolder(root, "val", image_size=32, val_data_root=[other])
    assert len(val) == 2 and "1.png (a pixel is 3; the classes are 0 to 2" in val.broken[0]


def test_folders_that_cannot_be_used_are_one_line(tmp_path):
    def refused(match, root, mode="train", **options):
        with pytest.raises(UserError, match=match) as error:
            MaskFolder(root, mode, image_size=32, **options)
        assert "\n" not in str(error.value)

    root = draw_shapes(tmp_path / "set", 2)
    refused("the folder .*nowhere/images does not exist: give folders with", tmp_path / "nowhere")
    refused("nowhere does not exist: give --test-data-root", tmp_path / "nowhere", "test")
    (tmp_path / "empty" / "images").mkdir(parents=True)
    refused("empty/masks does not exist", tmp_path / "empty")
    (tmp_path / "empty" / "masks").mkdir()
    refused(r"no picture in .*empty has a mask \(0 files", tmp_path / "empty")
    refused("there are no pictures in .*empty/images", tmp_path / "empty", "test")
    (root / "images" / "1.png").write_bytes(b"")
    refused("1.jpg and .*1.png differ in their suffix only", root)
    refused("the id 1 is there twice", root, "test")
    (root / "images" / "1.png").unlink()
    (root / "class_name.txt").write_text("all\n")
    refused("has 1 classes: 2 to 255 are needed", root)
    (root / "class_name.txt").unlink()
    (root / "masks" / "1.png").unlink()
    refused("has one picture with a mask: two are needed", root)
    spoil(root, 0, np.full((60, 72), 255, np.uint8))
    spoil(root, 1, np.full((60, 72), 255, np.uint8))
    with pytest.raises(UserError, match="1 of 1 samples .* the first is .*all 255"):
        refuse_broken(MaskFolder(root, "train", image_size=32))
    spoil(root, 0, np.zeros((60, 72), np.uint8))
    spoil(root, 1, np.full((60, 72), 255, np.uint8) * (np.arange(72) > 9).astype(np.uint8))
    refused("has 1 classes: 2 to 255 are needed", root)
