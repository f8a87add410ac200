"""Pictures and masks find each other by the names that people give to folders and files, or a line says why not."""

import numpy as np
import pytest
from drawn import paint
from PIL import Image

from data import MaskFolder
from utils import UserError

LAYOUTS = {  # the picture and the mask of 7
    "usual": ("images/{}.jpg", "masks/{}.png"),
    "VOC": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
    "singular": ("image/{}.png", "label/{}.png"),
    "short": ("imgs/{}.png", "masks/{}.png"),
    "annotations": ("images/{}.jpg", "annotations/{}.png"),
    "labels": ("images/{}.jpg", "labels/{}.png"),
    "capitals": ("Images/{}.jpg", "Masks/{}.png"),
    "an ending": ("images/a_{}.jpg", "masks/a_{}_mask.png"),
    "two endings": ("images/{}_sat.jpg", "masks/{}_mask.png"),
    "a beginning": ("images/img_{}.jpg", "masks/mask_{}.png"),
    "a beginning without a sign": ("images/image{}.jpg", "masks/label{}.png"),
    "in a folder within": ("images/{}.jpg", "annotations/trimaps/{}.png"),
    "a folder per picture": ("{0}/images/{0}.png", "{0}/masks/1.png"),
    "folders in folders": ("images/ulm/{}.jpg", "masks/ulm/{}.png"),
    "masks in a folder": ("{}.jpg", "masks/{}.png"),
    "together": ("{}.jpg", "{}_mask.png"),
    "together in images": ("images/{}.jpg", "images/{}_label.png"),
    "together, two endings": ("{}_image.png", "{}_segmentation.png"),
    "labelme": ("{}.jpg", "{}_json/label.png"),
    "labelme, exported": ("images/{}.jpg", "labels/{}_json/label.png"),
}


def fill(root, picture, mask, numbers=(7, 10, 11, 17)):
    """A picture and a mask of each number, whose pixels are the number, where these patterns say. Returns `root`."""
    for number in numbers:
        paint(root / picture.format(number), size=(8, 8))
        file = root / mask.format(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(file)
    return root


def found(root):
    """{name of a picture: the pixels of its mask} in train and val mode."""
    parts = [MaskFolder(root, mode, image_size=32) for mode in ("train", "val")]
    return {sample.path.stem: int(data[i][1][0, 0]) for data in parts for i, sample in enumerate(data.samples)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pictures_find_their_masks(tmp_path, layout):
    picture, mask = LAYOUTS[layout]
    masks = found(fill(tmp_path, picture, mask))
    name = picture.rpartition("/")[2].rpartition(".")[0]
    assert masks == {name.format(number): number for number in (7, 10, 11, 17)}


def test_the_folder_of_the_pictures_may_be_given(tmp_path):
    fill(tmp_path, "images/train/{}.jpg", "masks/train/{}.png")
    fill(tmp_path, "images/val/{}.jpg", "masks/val/{}.png", (9,))
    assert found(tmp_path / "images" / "train") == {str(number): number for number in (7, 10, 11, 17)}
    val = MaskFolder(tmp_path / "images" / "train", "val", image_size=32, val_data_root=[tmp_path / "images" / "val"])
    assert [int(val[0][1][0, 0])] == [9] and len(val) == 1 and not val.broken
    with pytest.raises(UserError, match="images has no pictures, but .*images/train has: give that"):
        MaskFolder(tmp_path, "train", image_size=32)


@pytest.mark.parametrize("masks", ["train_labels/{}_L.png", "train_masks/{}_mask.png", "trainannot/{}.png"])
def test_the_folder_of_the_masks_may_be_named_after_that_of_the_pictures(tmp_path, masks):
    fill(tmp_path, "train/{}.png", masks)
    assert found(tmp_path / "train") == {str(number): number for number in (7, 10, 11, 17)}
    refused(tmp_path, f"has no folder images ({tmp_path / 'train'} has its masks beside it: give that)")
    (tmp_path / "train-mask").mkdir()
    refused(tmp_path / "train", f"beside {tmp_path / 'train'} are train-mask and train", "rename all but one")


def test_what_was_understood_is_said_and_what_is_alone_is_counted(tmp_path, capsys):
    fill(tmp_path, "images/{}.jpg", "masks/{}_mask.png")
    paint(tmp_path / "images" / "5.jpg")
    (tmp_path / "masks" / "7_mask.png").rename(tmp_path / "masks" / "6_mask.png")
    assert found(tmp_path) == {"10": 10, "11": 11, "17": 17}
    said = capsys.readouterr().out
    assert f"{tmp_path}: the mask of x is x_mask" in said
    assert "ignoring 3 pictures and masks without the other: " in said
    assert all(name in said for name in ("images/5.jpg", "images/7.jpg", "masks/6_mask.png"))


def test_test_mode_finds_the_pictures_in_folders_of_other_names(tmp_path):
    fill(tmp_path, "JPEGImages/{}.jpg", "SegmentationClass/{}.png")
    fill(tmp_path / "each", "{0}/images/{0}.png", "{0}/masks/1.png")
    for root in (tmp_path, tmp_path / "each"):
        assert sorted(MaskFolder(root, "test", image_size=32).ids) == ["10", "11", "17", "7"]


def refused(root, *texts):
    with pytest.raises(UserError) as error:
        MaskFolder(root, "train", image_size=32)
    line = str(error.value)
    assert all(text in line for text in texts) and "\n" not in line, line


def test_names_that_leave_two_readings_are_one_line(tmp_path):
    fill(tmp_path / "folders", "images/{}.jpg", "labels/{}.png")
    fill(tmp_path / "folders", "images/{}.jpg", "annotations/{}.png")
    refused(tmp_path / "folders", "has the folders annotations, labels: rename the right one masks")
    fill(tmp_path / "endings", "images/{}.jpg", "masks/{}_car.png")
    fill(tmp_path / "endings", "images/{}.jpg", "masks/{}_road.png")
    refused(tmp_path / "endings", "are x_car or x_road for a picture x: leave one kind")
    fill(tmp_path / "above" / "train", "images/{}.jpg", "masks/{}.png")
    refused(tmp_path / "above", "has no folder images (", "above/train has one: give that")
    fill(tmp_path / "boxes", "images/{}.jpg", "masks/{}.png")
    for path in (tmp_path / "boxes" / "masks").iterdir():
        path.unlink()
    (tmp_path / "boxes" / "masks").rmdir()
    (tmp_path / "boxes" / "labels").mkdir()
    (tmp_path / "boxes" / "labels" / "7.txt").write_text("0 0.5 0.5 1 1")
    refused(tmp_path / "boxes", "has no folder masks: give folders", "other names are mask, labels, label, annotations")
