"""COCO files as people export them: ids, names, outlines, crowds and turned pictures, read as they are meant."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from coco_files import HEIGHT, WIDTH, all_of, annotation, batch_of, content, perfect, write
from PIL import Image, ImageOps
from pycocotools.coco import COCO

from data import CocoMask
from data.coco.format import Picture, draw_mask
from data.coco.stored import turned
from utils import UserError


def exported(folder, pictures=2, **changes):
    """content() with lists of other values, as a COCO file in `folder` with its pictures; returns its path."""
    return write(folder, {**content(pictures), **changes})


def rewrite(file, change):
    """Change a COCO file's content in place."""
    coco = json.loads(file.read_text())
    change(coco)
    file.write_text(json.dumps(coco))
    return file


def results(data, classes):
    """The list of results of a test data set whose model finds the first class in every picture."""
    data.classes, path = classes, f"{data.pictures[0].path.parent}/out.json"
    one = {"boxes": torch.tensor([[1.0, 2, 9, 8]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.9])}
    data.write_results(path, [([picture.id for picture in data.pictures], [one] * len(data))])
    return json.loads(open(path).read())


IDS = {  # ids of block and cross in the file: (labels, classes)
    "from 0": ([0, 1], [1, 2], ["background", "block", "cross"]),
    "from 0 with a gap": ([0, 7], [1, 2], ["background", "block", "cross"]),
    "text": (["1", "3"], [1, 3], ["background", "block", "unused", "cross"]),
    "words": (["b", "a"], [2, 1], ["background", "cross", "block"]),
    "huge": ([5, 10**9], [1, 2], ["background", "block", "cross"]),
    "negative": ([-1, 1], [1, 2], ["background", "block", "cross"]),
    "with a point": ([1.0, 3.0], [1, 3], ["background", "block", "unused", "cross"]),
}


@pytest.mark.parametrize("case", IDS)
def test_category_ids_of_any_kind_get_labels_from_1_and_come_back_in_results(tmp_path, case):
    (block, cross), labels, classes = IDS[case]
    coco = content(2)
    for one in coco["annotations"]:
        one["category_id"] = {1: block, 3: cross}[one["category_id"]]
    coco["categories"] = [{"id": block, "name": "block"}, {"id": cross, "name": "cross"}]
    file = exported(tmp_path)
    file.write_text(json.dumps(coco))
    data = all_of(file)
    assert data.classes == classes and data[0][1]["labels"].tolist() == labels
    meter, (_, target) = data.meter(), batch_of(data)
    meter.add(perfect(target), target)
    assert list(meter.summary().values()) == pytest.approx([100] * 5)
    found = results(CocoMask(file, "test", image_size=32), classes)
    assert [one["category_id"] for one in found] == [{"block": block, "cross": cross}[classes[1]]] * 2


def test_a_category_0_that_only_groups_others_gets_no_label_unless_it_is_annotated(tmp_path, capsys):
    group = [{"id": 0, "name": "parts", "supercategory": "none"}]
    group += [{"id": id, "name": name, "supercategory": "parts"} for id, name in ((1, "block"), (3, "cross"))]
    file = exported(tmp_path, categories=group)
    assert all_of(file).classes == ["background", "block", "unused", "cross"]
    assert "the category 0 parts has no annotations and only groups others: left out" in capsys.readouterr().out
    own = [{**one, "supercategory": "none"} for one in group]
    assert all_of(exported(tmp_path / "own", categories=own)).classes == ["background", "parts", "block", "cross"]
    used = content(2)
    used["annotations"][0]["category_id"] = 0
    used = write(tmp_path / "used", {**used, "categories": group})
    assert all_of(used).classes == ["background", "parts", "block", "cross"]
    both = CocoMask(file, "val", image_size=32, val_data_root=[used])  # annotated in one of the two is enough
    assert both.classes == ["background", "parts", "block", "cross"]


def test_results_of_a_folder_have_the_classes_numbers_which_are_named(tmp_path, capsys):
    folder = exported(tmp_path).parent.parent / "images/train2017"
    assert results(CocoMask(folder, "test", image_size=32), ["background", "bolt", "nut"])[0]["category_id"] == 1
    assert "category_id in " in (out := capsys.readouterr().out) and "is the class's number: 1 bolt, 2 nut\n" in out


TEXTS = {
    "annotations alone": (lambda id: id, str),
    "images alone": (str, lambda id: id),
    "both": (str, str),
    "with zeros": (lambda id: f"{id:012d}", lambda id: id),
    "words": ("photo {}".format, "photo {}".format),
    "with a point": (lambda id: id, float),
}


@pytest.mark.parametrize("case", TEXTS)
def test_image_ids_may_be_text_where_the_other_side_is_text_or_number(tmp_path, case):
    of_image, of_annotation = TEXTS[case]

    def change(coco):
        for one in coco["images"]:
            one["id"] = of_image(one["id"])
        for one in coco["annotations"]:
            one["image_id"] = of_annotation(one["image_id"])

    file = rewrite(exported(tmp_path), change)
    data = all_of(file)
    assert [len(data[index][1]["boxes"]) for index in range(2)] == [2, 2]
    meter, (_, target) = data.meter(), batch_of(data)
    meter.add(perfect(target), target)
    assert list(meter.summary().values()) == pytest.approx([100] * 5)
    found = results(CocoMask(file, "test", image_size=32), ["background", "block"])
    assert [one["image_id"] for one in found] == [of_image(1), of_image(2)]  # as in the file
    with contextlib.redirect_stdout(io.StringIO()):
        COCO(str(file)).loadRes(found)


NAMES = {
    "backslashes": r"sub\my {}.jpg",
    "dots and a backslash": r".\sub\my {}.jpg",
    "a dot": "./sub/my {}.jpg",
    "an address": "sub/my%20{}.jpg",
    "an address with a backslash": r"sub\my%20{}.jpg",
}
ELSEWHERE = {
    "a path of Windows": r"C:\data\sub\my {}.jpg",
    "a path of another machine": "/home/somebody/sub/my {}.jpg",
    "a path that climbs": r"..\..\tool\media\upload\my {}.jpg",
    "no folder": "my {}.jpg",
    "a folder more": "train/sub/my {}.jpg",
    "letters of another size": "SUB/MY {}.JPG",
    "a server's address": "/data/local-files/?d=sub%2Fmy%20{}.jpg",
}


@pytest.mark.parametrize("case", [*NAMES, *ELSEWHERE])
@pytest.mark.parametrize("place", ["images", "beside"])
def test_pictures_are_found_however_file_name_is_written(tmp_path, capsys, case, place):
    folder = tmp_path / ("images/sub" if place == "images" else "sub")
    folder.mkdir(parents=True)
    coco = content(2)
    for one in coco["images"]:
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"my {one['id']}.jpg")
        one["file_name"] = {**NAMES, **ELSEWHERE}[case].format(one["id"])
    file = tmp_path / ("annotations/of.json" if place == "images" else "of.json")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(coco))
    data = all_of(file)
    assert not data.broken and {one.path for one in data.pictures} == {folder / f"my {id}.jpg" for id in (1, 2)}
    said = f"no picture is where its file_name says, {coco['images'][0]['file_name']}; 2 of 2 were found"
    assert (said in capsys.readouterr().out) is (case in ELSEWHERE)


def test_pictures_that_are_found_by_the_end_of_their_names_are_never_guessed(tmp_path):
    coco = content(2)
    for one in coco["images"]:
        one["file_name"] = f"set/{'ab'[one['id'] - 1]}/0.jpg"
    file = tmp_path / "of.json"
    file.write_text(json.dumps(coco))
    for name in ("a/0.jpg", "b/0.jpg"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / name)
    assert sorted(str(one.path.relative_to(tmp_path)) for one in all_of(file).pictures) == ["a/0.jpg", "b/0.jpg"]
    (tmp_path / "b/0.jpg").unlink()
    with pytest.raises(UserError, match=r"the pictures set/a/0.jpg and set/b/0.jpg may both be .*a/0.jpg: correct"):
        all_of(file)
    rewrite(file, lambda coco: coco["images"][0].update(file_name="0.jpg"))
    rewrite(file, lambda coco: coco["images"][1].update(file_name="1.jpg"))
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "b/0.jpg")
    with pytest.raises(UserError, match=r"the picture 0.jpg may be .*a/0.jpg or .*b/0.jpg: correct file_name"):
        all_of(file)


def test_where_no_picture_is_found_the_line_shows_a_file_name_and_the_places(tmp_path):
    coco = content(2)
    coco["images"][0]["file_name"] = r"..\up\1.png"
    (tmp_path / "of.json").write_text(json.dumps(coco))
    with pytest.raises(UserError, match=rf"2 are listed, the first is \.\.\\up\\1\.png.* below {tmp_path}"):
        all_of(tmp_path / "of.json")


@pytest.mark.parametrize("name", ["_annotations.coco.json", "annotations/instances_default.json", "result.json"])
def test_a_folder_with_one_json_file_is_a_root(tmp_path, name):
    file = exported(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    file.rename(tmp_path / name)
    (tmp_path / "images/train2017").rename(tmp_path / "pictures")
    assert len(all_of(tmp_path)) == 2


def test_crowds_are_counted_and_the_classes_that_have_no_others_named(tmp_path, capsys):
    coco = content(2)
    for one in coco["annotations"][::2]:
        one["iscrowd"] = "1" if one["id"] == 2 else True
    file = write(tmp_path, coco)
    assert [item[1]["labels"].tolist() for item in map(all_of(file, "train").__getitem__, (0, 1))] == [[3], [3]]
    crowds = "2 of 4 annotations are crowds (iscrowd 1), which are not trained on"
    assert f"note: {file}: {crowds}: block has no others; --crowds=objects" in capsys.readouterr().out
    rewrite(file, lambda coco: coco["annotations"][0].update(iscrowd=0))
    all_of(file, "train")
    assert f"{file}: {crowds.replace('2', '1', 1)}; --crowds" in capsys.readouterr().out
    assert all_of(file, "train", crowds="objects")[0][1]["labels"].tolist() == [1, 3]
    assert all_of(file, crowds="objects")[0][1]["iscrowd"].tolist() == [0, 0]
    assert "crowds" not in capsys.readouterr().out
    rewrite(file, lambda coco: [one.update(iscrowd=1) for one in coco["annotations"]])
    with pytest.raises(UserError, match=r"json has nothing to train on: all 4 annotations are crowds \(iscrowd 1\)"):
        all_of(file, "train")
    assert len(all_of(file)) == 2  # to measure on
    rewrite(file, lambda coco: coco["annotations"].clear())
    with pytest.raises(UserError, match="nothing to train on: there is no annotation"):
        all_of(file, "train")


X, Y, W, H = 12, 6, 18, 12
POINTS = [[X, Y], [X + W, Y], [X + W, Y + H], [X, Y + H]]
FLAT = sum(POINTS, [])
LENGTHS = [HEIGHT * X + Y, H, *[HEIGHT - H, H] * (W - 1), HEIGHT - Y - H + HEIGHT * (WIDTH - X - W)]
OUTLINES = {
    "one flat list": FLAT,
    "points": POINTS,
    "polygons of points": [POINTS],
    "numbers as text": [[str(value) for value in FLAT]],
    "less than three points as well": [FLAT, [1, 2, 3, 4], []],
    "run lengths": {"size": [HEIGHT, WIDTH], "counts": LENGTHS},
    "run lengths in a list": [{"size": [str(HEIGHT), str(WIDTH)], "counts": LENGTHS}],
    "two halves": [[X, Y, X + 9, Y, X + 9, Y + H, X, Y + H], [X + 9, Y, X + W, Y, X + W, Y + H, X + 9, Y + H]],
}


@pytest.mark.parametrize("case", OUTLINES)
def test_outlines_in_any_brackets_are_polygons(tmp_path, capsys, case):
    coco = content(2)
    coco["annotations"][0] = annotation(2, 1, 1, X, Y, W, H, segmentation=OUTLINES[case])
    picture = next(one for one in all_of(write(tmp_path, coco)).pictures if one.id == 1)
    block = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    block[Y : Y + H, X : X + W] = 1
    assert np.array_equal(draw_mask(picture.annotations[0], picture), block)
    assert "without an outline" not in capsys.readouterr().out


@pytest.mark.parametrize("outline", [[], None, [[]], [[1, 2, 3, 4]], [1, 2]])
def test_boxes_without_outlines_are_counted_with_the_option_for_boxes_alone(tmp_path, capsys, outline):
    file = rewrite(exported(tmp_path), lambda coco: [one.update(segmentation=outline) for one in coco["annotations"]])
    assert all_of(file)[0][1]["masks"][0].sum() == W * H
    note = f"{file}: 4 boxes without an outline, used as mask; --masks=False trains MaskRCNN on boxes alone"
    assert note in capsys.readouterr().out


def test_boxes_and_sizes_may_be_numbers_as_text(tmp_path):
    def change(coco):
        coco["annotations"][0].update(bbox=["12", "6.0", "18", "12"], area="216")
        coco["images"][0].update(width=str(WIDTH), height=float(HEIGHT))

    data = all_of(rewrite(exported(tmp_path), change))
    target = next(item[1] for item in map(data.__getitem__, (0, 1)) if item[1]["image_id"] == 1)
    assert target["boxes"][0].tolist() == [12, 6, 30, 18] and target["area"][0] == 216


def test_boxes_that_are_no_x_y_width_height_in_pixels_are_said_to_be(tmp_path, capsys):
    def corners(coco):
        for one in coco["annotations"]:
            x, y, w, h = one["bbox"]
            one["bbox"] = [x, y, x + w, y + h]

    file = rewrite(exported(tmp_path), corners)
    assert len(all_of(file)) == 2
    assert f"{file}: 2 boxes larger than the picture, cut off; bbox is x, y, width, height" in capsys.readouterr().out
    rewrite(file, lambda coco: [one.update(bbox=[0.5, 0.25, 0.5, 0.25]) for one in coco["annotations"]])
    with pytest.raises(UserError, match="all boxes lie between 0 and 1: bbox is in pixels"):
        all_of(file)


def test_a_byte_order_mark_and_a_picture_that_is_listed_twice(tmp_path, capsys):
    file = rewrite(exported(tmp_path), lambda coco: coco["images"].append({**coco["images"][0], "id": 9}))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(all_of(file)) == 3
    assert f"{file}: 1 image listed again under another id" in capsys.readouterr().out


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_square_is_turned_as_pillow_turns_a_picture(orientation, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 8, 3), dtype=np.uint8)
    square = torch.zeros(8, 8, 3, dtype=torch.uint8)
    square[:5] = torch.from_numpy(pixels)
    picture = Image.fromarray(pixels)
    picture.getexif()[0x0112] = orientation
    upright = np.array(ImageOps.exif_transpose(picture))
    stands = Picture(1, tmp_path / "x.jpg", *upright.shape[:2], [], turn=orientation)
    found = turned(square, stands, upright.shape[:2])
    assert np.array_equal(found[: upright.shape[0], : upright.shape[1]], upright)
    assert found.sum() == square.sum()


def turn_file(path, orientation):
    """Give a JPEG the EXIF orientation, its pixels unchanged."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    tag, jpeg = exif.tobytes(), path.read_bytes()
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + jpeg[2:])


@pytest.mark.parametrize("pack", [False, True])
def test_the_annotated_size_tells_whether_boxes_are_those_of_the_upright_picture(tmp_path, capsys, pack):
    file = exported(tmp_path)
    path = tmp_path / "images/train2017/000000000001.jpg"
    turn_file(path, 6)

    def change(coco):  # the picture stands upright, and its block, 18 x 12 at (6, 6), as well
        coco["images"][0].update(width=HEIGHT, height=WIDTH)
        coco["annotations"][0] = annotation(2, 1, 1, HEIGHT - 18, 6, 12, 18)

    data = all_of(rewrite(file, change), pack=pack, pack_dir=tmp_path / "packs")
    square, target = next(item for item in map(data.__getitem__, (0, 1)) if item[1]["image_id"] == 1)
    assert not data.broken and target["size"] == (WIDTH, HEIGHT) and not square[:, :, HEIGHT:].any()
    x1, y1, x2, y2 = target["boxes"][0].int().tolist()
    inside = square[1].float()
    assert inside[y1:y2, x1:x2].mean() > 140 > 60 > inside[y1:y2, : x1 - 2].mean()
    assert "EXIF" not in capsys.readouterr().out


def test_turned_pictures_whose_size_does_not_tell_are_read_as_stored_and_counted(tmp_path, capsys):
    file = exported(tmp_path)
    plain = all_of(file)[0][0]
    turn_file(tmp_path / "images/train2017/000000000001.jpg", 3)
    assert torch.equal(all_of(file)[0][0], plain)
    note = f"1 picture of {file} with an EXIF orientation, and no annotated size that tells how the boxes were drawn"
    assert f"{note}: read as stored; --exif=upright if" in capsys.readouterr().out
    square, _ = all_of(file, exif="upright")[0]
    assert torch.equal(square[:, :HEIGHT, :WIDTH], plain[:, :HEIGHT, :WIDTH].flip(1, 2))
    assert torch.equal(all_of(file, exif="stored")[0][0], plain)
    assert "EXIF" not in capsys.readouterr().out
    turn_file(tmp_path / "images/train2017/000000000002.jpg", 6)
    assert len(CocoMask(file.parent.parent / "images/train2017", "test", image_size=32)) == 2
    assert "2 pictures of " in capsys.readouterr().out
