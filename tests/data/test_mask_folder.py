"""MaskFolder: pictures and masks that stay together, and masks that cannot be used."""

import numpy as np
import pytest
import torch
from drawn import SHAPE_COLORS, draw_shapes, replace_mask
from PIL import Image
from torch.nn import functional as F

from data import MaskFolder
from data.broken import refuse_broken
from data.pictures.augment import denormalise
from data.pictures.masks import MaskReader
from utils import UserError


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """40 pictures of three named classes; not to be changed by a test."""
    return draw_shapes(tmp_path_factory.mktemp("shapes") / "set", 40, ["ground", "disc", "bar"])


def test_items_are_whole_pictures_split_by_name(shapes):
    train, val = (MaskFolder(shapes, mode, image_size=56) for mode in ("train", "val"))
    assert (len(train), len(val)) == (28, 12) and train.classes == val.classes == ["ground", "disc", "bar"]
    assert not {sample.path for sample in train.samples} & {sample.path for sample in val.samples}
    for data, size in ((train, 64), (val, 56)):
        picture, mask = data[0]
        assert picture.shape == (3, size, size) and mask.shape == (size, size)
        assert picture.dtype == mask.dtype == torch.uint8 and set(mask.unique().tolist()) <= {0, 1, 2, 255}
    assert len(MaskFolder(shapes, "val", image_size=56, val_size=5)) == 5
    elsewhere = MaskFolder(shapes, "val", image_size=56, val_data_root=[str(shapes)])
    assert len(elsewhere) == len(MaskFolder(shapes, "train", image_size=56, val_data_root=[str(shapes)])) == 40


def test_a_resized_mask_has_no_class_between_two(tmp_path):
    classes = np.random.default_rng(0).choice([0, 2], (30, 40)).astype(np.uint8)
    files = tmp_path / "a.jpg", tmp_path / "a.png"
    Image.new("RGB", (40, 30)).save(files[0])
    Image.fromarray(classes).save(files[1])
    for size in (24, 64):
        pixels, counts = MaskReader()(files, (size, size))
        assert set(np.unique(pixels[..., 3])) == {0, 2}
        assert counts == [[0, int((classes == 0).sum())], [2, int((classes == 2).sum())]]


def test_crops_and_flips_move_picture_and_mask_alike(tmp_path):
    """Without noise every pixel's color says its class: after the augmentation it still does. There is no class
    between 0, 2 and 255: to mix them would make some."""
    root = draw_shapes(tmp_path / "set", 2, ["ground", "disc", "bar"])
    for number in range(2):
        mask = np.array(Image.open(root / "masks" / f"{number}.png"))
        Image.fromarray(SHAPE_COLORS[mask].astype(np.uint8)).save(root / "images" / f"{number}.png")
        replace_mask(root, number, np.where(mask == 1, 255, mask).astype(np.uint8))
        (root / "images" / f"{number}.jpg").unlink()
    train = MaskFolder(root, "train", image_size=64, crop_min_scale=0.3, val_data_root=[root], fit="squeeze")
    input, target = (torch.stack(batch * 8) for batch in zip(train[0], train[1], strict=True))
    input, target = train.prepare(input, target, torch.Generator().manual_seed(0))
    input = denormalise(input)
    assert input.shape == (16, 3, 64, 64) and target.shape == (16, 64, 64) and target.dtype == torch.int64
    distance = (input.permute(0, 2, 3, 1)[..., None, :] * 255 - torch.tensor(SHAPE_COLORS)).abs().sum(dim=-1)
    assert (distance.argmin(dim=-1) == torch.where(target == 255, 1, target)).float().mean() > 0.97  # but at edges
    assert set(target.unique().tolist()) == {0, 2, 255} == set(train[0][1].unique().tolist())
    assert len({tuple(mask.flatten().tolist()) for mask in target}) == 16


def test_drawn_strips_show_picture_prediction_and_truth_with_headings_and_a_legend(shapes, written):
    val = MaskFolder(shapes, "val", image_size=64, fit="squeeze")
    input, target = val.prepare(*(torch.stack(part) for part in zip(*(val[i] for i in range(6)), strict=True)), None)
    target[0, :8] = 255
    strips = val.draw(input, target, F.one_hot(target % 255, 3).permute(0, 3, 1, 2).float())
    assert len(strips) == 4 and {strip.dtype for strip in strips} == {torch.uint8}
    assert written[:7] == ["picture", "prediction, 100 % right", "truth", "ground", "disc", "bar", "ignored"]
    assert written[7:13] == ["picture", "prediction, 100 % right", "truth", "ground", "disc", "bar"]
    shown = [[strip[:, 24:216:3, x : x + 192 : 3] for x in (0, 200, 400)] for strip in strips]  # three times as large
    assert torch.equal(shown[0][0], val[0][0]) and torch.equal(shown[1][1], shown[1][2])
    assert shown[0][2][:, 0, 0].tolist() == [224, 224, 192] and shown[0][1][:, 0, 0].tolist() == [0, 0, 0]
    assert strips[1][:, 216 + 12, 6].tolist() == [0, 0, 0] and strips[1][:, 216 + 12, 166].tolist() == [128, 0, 0]
    wrong = val.draw(input[:1], target[:1], F.one_hot((target[:1] + 1) % 3, 3).permute(0, 3, 1, 2).float())
    assert len(wrong) == 1 and "prediction, 0 % right" in written
    written.clear()
    alone = val.draw(input, target, None)  # a batch of training
    assert written[:6] == ["picture", "truth", "ground", "disc", "bar", "ignored"] and len(alone) == 4
    assert torch.equal(alone[1][:, 24:216:3, 200:392:3], shown[1][2])


def test_masks_that_cannot_be_used_are_left_out_and_named(tmp_path, capsys):
    root = draw_shapes(tmp_path / "set", 60, ["ground", "disc", "bar"])
    blank = np.zeros((60, 72), np.uint8)
    replace_mask(root, 0, blank[:30])
    replace_mask(root, 1, blank + 7)
    replace_mask(root, 2, np.stack([blank, blank, blank + 9], axis=2))
    replace_mask(root, 3, blank + 255)
    replace_mask(root, 4, blank.astype(np.uint16) + 700)
    (root / "masks" / "5.png").write_bytes((root / "masks" / "5.png").read_bytes()[:60])
    (root / "images" / "6.jpg").write_text("no picture")
    (root / "masks" / "7.png").unlink()
    (root / "images" / "8.jpg").unlink()
    replace_mask(root, 9, blank > 0)  # black and white
    palette = Image.open(root / "masks" / "10.png").convert("P")
    palette.putpalette(bytes(range(30)))
    palette.save(root / "masks" / "10.png")

    parts = [MaskFolder(root, mode, image_size=32) for mode in ("train", "val")]
    broken = sorted(line for data in parts for line in data.broken)
    for line, text in zip(
        broken,
        [
            "6.jpg (cannot identify the image: it is of no kind",
            "0.png (72x30, but its picture 72x60)",
            "1.png (a pixel is 7; the classes are 0 to 2",
            "2.png (it has col",
        ]
        + ["3.png (all 255", "4.png (a pixel is 700", "5.png (image file is truncated"],
        strict=True,
    ):
        assert text in line and line.count("/masks/") + line.count("/images/") == 1
    assert sum(map(len, parts)) == 51  # 58 pairs, 7 of them broken
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(said) == 1 and said[0].startswith("note: ignoring 2 pictures and masks without the other: ")
    assert "7.jpg" in said[0] and "8.png" in said[0]
    with pytest.raises(UserError, match="7 of 58"):
        refuse_broken(*parts)
    for data in parts:
        assert all(set(data[index][1].unique().tolist()) <= {0, 1, 2, 255} for index in range(len(data)))


def test_classes_without_names_are_those_of_the_masks(tmp_path):
    root = draw_shapes(tmp_path / "set", 11)
    replace_mask(root, 10, np.full((60, 72), 700, np.uint16))  # no class of its own
    data = MaskFolder(root, "val", image_size=32, class_weights=True)
    assert data.classes == ["class 0", "class 1", "class 2"] and data.weights is None
    train = MaskFolder(root, "train", image_size=32, class_weights=True)
    pixels = np.concatenate([np.array(Image.open(sample.target[0])).ravel() for sample in train.samples])
    assert train.weights == pytest.approx([len(pixels) / (pixels == label).sum() for label in range(3)])

    other = draw_shapes(tmp_path / "other", 3)
    replace_mask(other, 1, np.full((60, 72), 3, np.uint8))
    val = MaskFolder(root, "val", image_size=32, val_data_root=[other])
    assert len(val) == 2 and "1.png (a pixel is 3; the classes are 0 to 2" in val.broken[0]


def test_folders_that_cannot_be_used_are_one_line(tmp_path):
    def refused(match, root, mode="train", **options):
        with pytest.raises(UserError, match=match) as error:
            MaskFolder(root, mode, image_size=32, **options)
        assert "\n" not in str(error.value)

    root = draw_shapes(tmp_path / "set", 2)
    refused("^there is no folder .*nowhere: give folders with", tmp_path / "nowhere")
    refused("^there is no folder .*nowhere: give a folder of pictures$", tmp_path / "nowhere", "test")
    (tmp_path / "empty" / "images").mkdir(parents=True)
    refused("empty has no folder masks: give folders with", tmp_path / "empty")
    (tmp_path / "empty" / "masks").mkdir()
    refused(r"no picture in .*empty has a mask \(0 of one", tmp_path / "empty")
    refused(r"no picture in .*empty/images \(0 other files\)", tmp_path / "empty", "test")
    (root / "images" / "1.png").write_bytes(b"")
    refused("1.jpg and .*1.png differ only in their suffix", root)
    refused("have the same id, 1: rename", root, "test")
    (root / "images" / "1.png").unlink()
    (root / "class_name.txt").write_text("all\n")
    refused("has 1 class: 2 to 255 are needed", root)
    (root / "class_name.txt").unlink()
    (root / "masks" / "1.png").unlink()
    refused("has one picture with a mask: two are needed", root)
    replace_mask(root, 0, np.full((60, 72), 255, np.uint8))
    replace_mask(root, 1, np.full((60, 72), 255, np.uint8))
    with pytest.raises(UserError, match="1 of 1 sample cannot .* the first is .*all 255"):
        refuse_broken(MaskFolder(root, "train", image_size=32))
    replace_mask(root, 0, np.zeros((60, 72), np.uint8))
    replace_mask(root, 1, np.zeros((60, 72), np.uint8))
    refused("has 1 class: 2 to 255 are needed", root)


def test_pictures_that_are_trained_on_and_validate_are_noted(shapes, capsys):
    train, val = MaskFolder(shapes, "train", image_size=32), MaskFolder(shapes, "val", image_size=32)
    capsys.readouterr()
    refuse_broken(train, val)
    assert capsys.readouterr().out == ""
    refuse_broken(train, MaskFolder(shapes, "val", image_size=32, val_data_root=[shapes]))
    assert f"note: {len(train)} samples of 40 to validate on are trained on, too" in capsys.readouterr().out
