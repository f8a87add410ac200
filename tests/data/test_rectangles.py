"""--image-size=96x64 is width x height, for every task: quarters of four colours are neither swapped nor cut."""

import json

import numpy as np
import pytest
import torch
from conftest import NO_SERVER, main
from drawn import paint
from PIL import Image

import models
from data import CIFAR10, CocoMask, ImageFolder, MaskFolder
from data.pictures.augment import denormalise
from data.pictures.sheet import compared
from utils import UserError

COLORS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 250]], np.uint8)  # of the quarters, row by row
SIZE, H, W = "96x64", 64, 96


def quarters(width, height):
    """The quarter, 0 to 3, of each pixel, uint8 [height, width]."""
    rows, columns = np.arange(height) >= height / 2, np.arange(width) >= width / 2
    return (2 * rows[:, None] + columns).astype(np.uint8)


def save(path, width, height, border=0):
    """A picture of four quarters with black borders at its left and right; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = COLORS[quarters(width, height)]
    pixels[:, :border] = pixels[:, width - border :] = 0
    Image.fromarray(pixels).save(path)
    return path


def shown(pixels):
    """The quarter that each pixel has the colour of, int64 [h, w], of a picture [3, h, w] from 0 to 255."""
    distance = (pixels.permute(1, 2, 0)[:, :, None].float() - torch.tensor(COLORS)).abs().sum(dim=3)
    return distance.argmin(dim=2).numpy()


def right(found, width, height):
    """The share of pixels whose quarter is right."""
    assert found.shape == (height, width)
    return (found == quarters(width, height)).mean()


@pytest.fixture(scope="module")
def forest(tmp_path_factory):
    """Two classes of pictures that are wider than 3:2, and have black borders where they are."""
    root = tmp_path_factory.mktemp("forest")
    for kind in ("ash", "oak"):
        for number in range(4):
            save(root / kind / f"{number}.png", 160, 60, border=35)  # 90x60 are left
    return root


@pytest.mark.parametrize("pack", [False, True])
def test_classification_takes_the_middle_and_squeezes_in_training(forest, tmp_path, pack):
    options = {"image_size": SIZE, "pack": pack, "pack_dir": tmp_path, "crop_min_scale": 1.0, "flip": 0.0}
    val, train = (ImageFolder(forest, mode, **options) for mode in ("val", "train"))
    assert val[0][0].shape == (3, H, W) and right(shown(val[0][0]), W, H) > 0.95
    assert (val[0][0].amax(dim=0) > 100).all()  # no border is left
    assert train[0][0].shape == (3, 73, 110) and (train[0][0][:, :, :20].amax(dim=0) < 100).all()
    for data in (val, train):
        input, target = data.prepare(*data.__getitems__([0, 1]), torch.Generator().manual_seed(0))
        assert input.shape == (2, 3, H, W) and input.is_contiguous(memory_format=torch.channels_last)
        assert right(shown(denormalise(input[0]) * 255), W, H) > (0.95 if data is val else 0.5)
    assert not pack or [path.name.rpartition("_")[0] for path in sorted(tmp_path.glob("*.u8"))] == [
        "ImageFolder_train_110x73",
        "ImageFolder_val_96x64",
    ]
    (tall,) = [ImageFolder(forest, "val", image_size="32x64")]
    assert right(shown(tall[0][0]), 32, 64) > 0.95


def test_a_square_of_two_numbers_is_the_square_of_one(forest, tmp_path):
    squares = [ImageFolder(forest, "val", image_size=size, pack=True, pack_dir=tmp_path) for size in (48, "48x48")]
    assert torch.equal(squares[0][0][0], squares[1][0][0]) and len(list(tmp_path.glob("*_val_48_*.u8"))) == 1


def test_sheets_of_predictions_have_room_for_the_height():
    picture = torch.tensor(COLORS[quarters(160, 320)]).permute(2, 0, 1) / 255
    sheet = compared(picture.expand(5, -1, -1, -1), ["a", "b"], torch.tensor([0] * 5), torch.eye(2)[[0] * 5])
    assert sheet.shape == (3, 24 + 2 * (320 + 24), 4 * (160 + 8))
    for top in (24, 24 + 320 + 24):
        assert right(shown(sheet[:, top : top + 320, 4:164]), 160, 320) == 1


def test_segmentation_squeezes_pictures_and_masks_alike(tmp_path):
    for number in range(4):
        save(tmp_path / "images" / f"{number}.png", 120, 100)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(quarters(120, 100)).save(tmp_path / "masks" / f"{number}.png")
    options = {"image_size": SIZE, "crop_min_scale": 0.6, "flip": 0.0, "val_data_root": [tmp_path], "fit": "squeeze"}
    for mode in ("train", "val"):
        data = MaskFolder(tmp_path, mode, **options)
        input, target = data.prepare(*data.__getitems__([0, 1, 2]), torch.Generator().manual_seed(0))
        assert input.shape == (3, 3, H, W) and target.shape == (3, H, W)
        for picture, mask in zip(denormalise(input) * 255, target, strict=True):
            assert (shown(picture) == mask.numpy()).mean() > 0.95 and set(mask.unique().tolist()) == {0, 1, 2, 3}
        assert mode == "train" or right(target[0].numpy(), W, H) == 1
    test = MaskFolder(tmp_path, "test", image_size=SIZE, fit="squeeze")
    scores = torch.nn.functional.one_hot(target[:1], 4).permute(0, 3, 1, 2).float()
    test.write_results(tmp_path / "result.csv", [(["0"], scores)])
    with Image.open(tmp_path / "result" / "0.png") as file:
        assert right(np.asarray(file), 120, 100) > 0.95


def test_detection_fits_pictures_into_the_rectangle(tmp_path):
    sizes = {1: (180, 60), 2: (60, 80)}  # limited by the width, by the height
    boxes = {id: [width / 2, 0, width / 2, height / 2] for id, (width, height) in sizes.items()}  # the second quarter
    images = [{"id": id, "file_name": f"{id}.png", "width": w, "height": h} for id, (w, h) in sizes.items()]
    x = [{"id": id, "image_id": id, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
          "segmentation": [[box[0], 0, box[0] + box[2], 0, box[0] + box[2], box[3], box[0], box[3]]]}
         for id, box in boxes.items()]  # fmt: skip
    for id, size in sizes.items():
        save(tmp_path / f"{id}.png", *size)
    file = tmp_path / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": x, "categories": [{"id": 1, "name": "quarter"}]}))
    data = CocoMask(file, "val", image_size=SIZE, val_data_root=[file])
    input, target = data.prepare(*data.__getitems__([0, 1]), None)
    for picture, truth in zip(input, target, strict=True):
        w, h = (96, 32) if truth["image_id"] == 1 else (48, 64)
        assert right(shown(picture * 255), w, h) > 0.95 and truth["size"] == (h, w)
        assert truth["boxes"][0].tolist() == pytest.approx([w / 2, 0, w, h / 2])
        assert (truth["masks"][0].numpy() == (quarters(w, h) == 1)).all()
    items, _ = CocoMask(file, "test", image_size=SIZE).__getitems__([0])
    assert items.shape == (1, 3, H, W)


def test_small_pictures_in_memory_become_rectangles(tmp_path, monkeypatch):
    pixels = torch.tensor(COLORS[quarters(32, 32)]).expand(4, -1, -1, -1)
    monkeypatch.setattr("data.cifar10.find_folder", lambda *_: tmp_path)
    monkeypatch.setattr("data.cifar10.read_names", lambda *_: ["a", "b"])
    monkeypatch.setattr("data.cifar10.read_batch", lambda *_: (pixels, [0, 1, 0, 1]))
    for mode in ("val", "train"):
        data = CIFAR10(tmp_path, mode, image_size=SIZE, flip=0.0, crop_min_scale=1.0)
        input, _ = data.prepare(*data.__getitems__([0]), torch.Generator().manual_seed(0))
        assert input.shape == (1, 3, H, W) and right(shown(denormalise(input[0]) * 255), W, H) > 0.6


def test_models_for_squares_say_so_in_one_line():
    for name in ("vit_b_16", "maxvit_t"):
        wanted = rf"^{name} cannot be built for pictures of 320x192 pixels \(it takes squares only\): take a square$"
        with pytest.raises(UserError, match=wanted):
            getattr(models, name)(num_classes=2, image_size="320x192")


def test_a_run_with_rectangles_through_the_command_line(forest, tmp_path):
    roots = [f"--train-data-root={forest}", "--dataset=ImageFolder", "--model=SqueezeNet", "--num-workers=0", NO_SERVER]
    main("train", *roots, "--image-size=96x64", "--max-epoch=1", "--batch-size=3", cwd=tmp_path, check=0)
    done = main("val", "--cam=1", cwd=tmp_path, check=0)
    assert "  image_size: 96x64  (of the run)\n" in done.stdout
    (report,) = tmp_path.glob("checkpoints/*/best_report")
    assert "image_size: 96x64\n" in (report / "about.yaml").read_text() and (report / "cam_000.png").exists()
    main("test", f"--test-data-root={paint(tmp_path / 'new' / '1.png').parent}", cwd=tmp_path, check=0)
    assert len((tmp_path / "result.csv").read_text().splitlines()) == 2
