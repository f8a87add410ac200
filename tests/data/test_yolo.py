"""YOLO's text files: boxes and polygons in shares of the picture, names of the classes, folders and data.yaml."""

import pytest
import torch
from coco_files import batch_of, perfect
from PIL import Image

from data import YOLO
from utils import UserError

BOX = "0 0.25 0.25 0.25 0.25"  # in pictures of 64 x 48: x 8 to 24, y 6 to 18
POLYGON = "1 0.5 0.5 1.0 0.5 1.0 1.0 0.5 1.0"


def draw(folder, name, *lines, labels="labels", images="images", orientation=1):
    """A picture and its text file; without lines it has none."""
    for place in (folder / images, folder / labels):
        place.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (64, 48), "grey").save(folder / images / f"{name}.jpg", exif=exif)
    if lines:
        (folder / labels / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder


def draw_four(folder, **options):
    for number in range(4):
        draw(folder, f"shot {number}", BOX, POLYGON, **options)
    return folder


def all_of(root, mode="val", **options):
    return YOLO(root, mode, image_size=64, val_data_root=[root], **options)


LAYOUTS = {  # images, labels, what is the root
    "images and labels": ("images", "labels", "."),
    "the folder of pictures": ("images/train", "labels/train", "images/train"),
    "beside each other": ("obj_train_data", "obj_train_data", "obj_train_data"),
    "images without labels": ("images", "images", "."),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_boxes_and_polygons_are_in_shares_of_the_picture(tmp_path, capsys, case):
    images, labels, root = LAYOUTS[case]
    data = all_of(draw_four(tmp_path, images=images, labels=labels) / root)
    assert len(data) == 4 and data.classes == ["background", "class 0", "class 1"]
    target = data[0][1]
    assert target["boxes"].tolist() == [[8, 6, 24, 18], [32, 24, 64, 48]] and target["labels"].tolist() == [1, 2]
    assert target["area"].tolist() == [16 * 12, 32 * 24] and [int(one.sum()) for one in target["masks"]] == [192, 768]
    out = capsys.readouterr().out
    assert "names the classes of" in out and "4 boxes without an outline, used as mask; --masks=False" in out
    meter, (_, target) = data.meter(), batch_of(data)
    meter.add(perfect(target), target)
    assert list(meter.summary().values()) == pytest.approx([100] * 5)


@pytest.mark.parametrize("file", ["classes.txt", "labels/classes.txt", "obj.names", "data.yaml", "../data.yaml"])
@pytest.mark.parametrize("kind", ["list", "numbers"])
def test_names_come_from_the_nearest_file_that_has_them(tmp_path, file, kind):
    root = draw_four(tmp_path / "set")
    yaml = "names: [nut, bolt, cog]\n" if kind == "list" else "nc: 3\nnames:\n  2: cog\n  0: nut\n  1: bolt\n"
    (root / file).write_text(yaml if file.endswith("yaml") else "nut\r\nbolt\ncog\n\n")
    data = all_of(root)
    assert data.classes == ["background", "nut", "bolt", "cog"] and data[0][1]["labels"].tolist() == [1, 2]
    draw(root, "odd", BOX, "3 0.5 0.5 0.1 0.1")
    with pytest.raises(UserError, match=r"labels/odd.txt:2: the class 3 is none of the 3 of .*: 0 nut, 1 bolt, 2 cog"):
        all_of(root)


def names_of(data):
    return sorted(picture.path.name for picture in data.pictures)


YAMLS = {
    "beside the parts": "train: train/images\nval: valid/images",
    "a folder too high": "train: ../train/images\nval: ../valid/images",
    "with a path": "path: ..\ntrain: set/train/images\nval: [set/valid/images]",
    "folders of folders": "train: train\nval: valid",
    "lists": "train: train.txt\nval: val.txt",
}


@pytest.mark.parametrize("case", YAMLS)
def test_data_yaml_divides_and_names(tmp_path, capsys, case):
    root = tmp_path / "set"
    for part, name in (("train", "a"), ("train", "b"), ("valid", "c")):
        draw(root, name, BOX, images=f"{part}/images", labels=f"{part}/labels")
    (root / "data.yaml").write_text(f"{YAMLS[case]}\ntest: valid/images\nnames: [nut]\n")
    (root / "train.txt").write_text("train/images/a.jpg\n./train/images/b.jpg\n")
    (root / "val.txt").write_text("valid/images/c.jpg\n")
    for given in (root, root / "data.yaml"):
        assert names_of(YOLO(given, "train")) == ["a.jpg", "b.jpg"] and names_of(YOLO(given, "val")) == ["c.jpg"]
        assert names_of(all_of(given, "train")) == ["a.jpg", "b.jpg"] and names_of(all_of(given)) == ["c.jpg"]
        assert names_of(YOLO(given, "test")) == ["c.jpg"]
    assert YOLO(root, "val").classes == ["background", "nut"]
    assert f"{root} is divided into train and val" in capsys.readouterr().out
    (root / "data.yaml").write_text("train: lost/images\nval: valid/images\nnames: [nut]\n")
    with pytest.raises(UserError, match=r"data.yaml of .* names lost/images, which is neither .* nor "):
        YOLO(root, "train")


def test_folders_named_train_and_val_divide_too(tmp_path):
    for part, name in (("train", "a"), ("train", "b"), ("val", "c")):
        draw(tmp_path, name, BOX, images=f"images/{part}", labels=f"labels/{part}")
    assert names_of(YOLO(tmp_path, "train")) == ["a.jpg", "b.jpg"] and names_of(YOLO(tmp_path, "val")) == ["c.jpg"]


def test_points_after_a_box_are_ignored_where_data_yaml_has_their_shape(tmp_path):
    root = draw(draw(tmp_path, "a", f"{BOX} 0.1 0.1 2 0.2 0.2 2"), "b", f"{BOX} 0.1 0.1 2 0.2 0.2 2")
    (root / "data.yaml").write_text("kpt_shape: [2, 3]\nnames: [person]\n")
    assert all_of(root)[0][1]["boxes"].tolist() == [[8, 6, 24, 18]]


def test_empty_and_missing_text_files_are_pictures_without_objects(tmp_path, capsys):
    draw(draw(draw_four(tmp_path), "empty", ""), "missing")
    assert len(all_of(tmp_path)) == 6 and len(all_of(tmp_path, "train")) == 4
    out = capsys.readouterr().out
    assert f"1 picture of {tmp_path} without a text file" in out and "not training on 2 pictures" in out
    alone = draw(tmp_path / "alone", "1")
    with pytest.raises(UserError, match=r"no picture of .* has a text file, the first would have .*labels/1.txt: give"):
        all_of(alone)
    with pytest.raises(UserError, match="nothing to train on: there is no object"):
        all_of(draw(tmp_path / "none", "1", ""), "train")


def test_boxes_without_an_area_are_left_out_and_counted(tmp_path, capsys):
    draw(tmp_path, "a", BOX, "0 0.5 0.5 0 0.2", "0 0.5 0.5 0.2 0.00000001", "0 1.005 0.5 0.001 0.5")
    assert all_of(tmp_path)[0][1]["boxes"].tolist() == [[8, 6, 24, 18]]
    assert f"{tmp_path}: 1 box without an area in the picture, left out" in capsys.readouterr().out


def test_boxes_are_those_of_the_upright_picture(tmp_path):
    data = all_of(draw(tmp_path, "a", BOX, orientation=6))
    assert data[0][1]["size"] == (64, 48) and data[0][1]["boxes"].tolist() == [[6, 8, 18, 24]]
    test = YOLO(tmp_path, "test", image_size=64)
    assert torch.equal(test[0][0], data[0][0]) and (test.pictures[0].height, test.pictures[0].width) == (64, 48)


BAD = {
    "a class of letters": ("nut 0.5 0.5 0.1 0.1", "a line is a class number from 0 and shares"),
    "half a class": ("0.5 0.5 0.5 0.1 0.1", "a line is a class number from 0"),
    "a negative class": ("-1 0.5 0.5 0.1 0.1", "a line is a class number from 0"),
    "pixels": ("0 32 24 16 12", "numbers are shares of the picture, from 0 to 1, not pixels: '0 32 24 16 12'"),
    "nan": ("0 0.5 nan 0.1 0.1", "a line is a class number from 0"),
    "commas": ("0,0.5,0.5,0.1,0.1", "a line is a class number from 0"),
    "too few": ("0 0.5 0.5 0.1", "3 numbers follow the class, and 4 for a box"),
    "a confidence": ("0 0.5 0.5 0.1 0.1 0.9", "5 numbers follow the class"),
    "no box": ("0", "0 numbers follow the class"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_named_by_file_and_line(tmp_path, case):
    line, words = BAD[case]
    with pytest.raises(UserError, match=rf"labels/a.txt:2: {words}"):
        all_of(draw(tmp_path, "a", BOX, line))


def test_what_is_no_yolo_data_set_says_what_is_needed(tmp_path):
    with pytest.raises(
        UserError, match="there is no folder gone: give data.yaml, or a folder with images/ and labels/"
    ):
        YOLO("gone", "train")
    root = draw(tmp_path, "a", BOX)
    for text in ("names: [", "7", "- a", "names: nut", "names: {a: nut}", "kpt_shape: 7", "kpt_shape: [a, 3]"):
        (root / "data.yaml").write_text(text)
        with pytest.raises(UserError, match="data.yaml(: write names| cannot be read as YAML| has no settings)"):
            YOLO(root, "train")
