"""CocoKeypoints: points that stay with their objects, left and right after a flip, and COCO's measure of them."""

import contextlib
import io
import json

import pytest
import torch
from coco_files import HEIGHT, WIDTH, annotation, batch_of, perfect, write
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data import CocoKeypoints
from data.coco.keypoints import swapped
from utils import UserError

NAMES = ["nose", "left_hand", "right_hand"]


def content(count=3, names=NAMES, pictures=6):
    """In every picture a block with points, the last of which is not labelled, and one without points."""
    images, annotations = [], []
    for n in range(1, pictures + 1):
        images.append({"id": n, "file_name": f"{n:012d}.jpg", "width": WIDTH, "height": HEIGHT})
        points = sum(([10 + n + k, 8 + 2 * k, 2 - k % 2] for k in range(count - 1)), []) + [0, 0, 0]
        annotations.append(annotation(2 * n, n, 1, 6, 6, 30, 24, keypoints=points, num_keypoints=count - 1))
        annotations.append(annotation(2 * n + 1, n, 1, 40, 30, 12, 12))
    person = {"id": 1, "name": "person"} | ({"keypoints": names, "skeleton": [[1, 2], [1, 3], [1, 9]]} if names else {})
    return {"images": images, "annotations": annotations, "categories": [person]}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The COCO file of content(); not to be changed by a test."""
    return write(tmp_path_factory.mktemp("keypoints"), content(), "person_keypoints_train2017.json")


def all_of(file, mode="val", size=WIDTH, keypoints=3):
    return CocoKeypoints(file, mode, keypoints, image_size=size, val_data_root=[file])


def detections(target):
    """The truth as a model's detections."""
    return [{**found, "keypoints": one["keypoints"]} for found, one in zip(perfect(target), target, strict=True)]


def test_points_are_scaled_with_the_picture(drawn):
    data = all_of(drawn, size=128)
    target = data[0][1]
    n = target["image_id"]
    assert target["keypoints"].dtype == torch.float32 and target["keypoints"].shape == (2, 3, 3)
    assert target["keypoints"][0].tolist() == [[2 * (10 + n), 16, 2], [2 * (11 + n), 20, 1], [0, 0, 0]]
    assert not target["keypoints"][1].any() and data.skeleton == [(0, 1), (0, 2)]  # the third has no such point


def test_left_and_right_change_places_when_a_picture_is_flipped(drawn):
    data = all_of(drawn, "train")
    plain = {item[1]["image_id"]: item[1]["keypoints"] for item in map(data.__getitem__, range(6))}
    flipped = 0
    for _, one in zip(*batch_of(data), strict=True):
        (nose, left, right), before = one["keypoints"][0], plain[one["image_id"]][0]
        if not torch.equal(one["keypoints"], plain[one["image_id"]]):
            flipped += 1
            assert nose.tolist() == [WIDTH - before[0, 0], 8, 2]
            assert right.tolist() == [WIDTH - before[1, 0], 10, 1] and left.tolist() == [0, 0, 0]
    assert 0 < flipped < 6
    assert swapped(["Nose", "Left_Eye", "right_eye", "tail", "left_fin"]) == [0, 2, 1, 3, 4]


def test_pictures_are_not_flipped_where_the_points_have_no_names(tmp_path, capsys):
    file = write(tmp_path, content(17, names=None), "person_keypoints_train2017.json")
    data = all_of(file, "train", keypoints=17)
    plain = {item[1]["image_id"]: item[1]["keypoints"] for item in map(data.__getitem__, range(6))}
    assert all(torch.equal(one["keypoints"], plain[one["image_id"]]) for one in batch_of(data)[1])
    assert f"{file} does not name its keypoints" in capsys.readouterr().out


@pytest.mark.parametrize("count, names", [(17, None), (3, NAMES)])
def test_perfect_points_are_100_percent_and_moved_ones_as_pycocotools_has_them(tmp_path, count, names):
    file = write(tmp_path, content(count, names), "person_keypoints_train2017.json")
    data = all_of(tmp_path, size=96, keypoints=count)  # the folder finds it
    meter, (_, target) = data.meter(), batch_of(data)
    assert list(meter.summary()) == ["keypoint_ap", "keypoint_ap50", "box_ap50", "box_ap"]
    assert all(value != value for value in meter.summary().values())
    meter.add(detections(target), target)
    assert list(meter.summary().values()) == pytest.approx([100] * 4)
    meter.report(tmp_path)
    rows = [line.split(",") for line in (tmp_path / "coco.csv").read_text().splitlines()]
    assert rows[:2] == [["measure", "box", "keypoint"], ["AP", "100.00", "100.00"]]
    assert ["AR50", "", "100.00"] in rows and ["AP person", "100.00", "100.00"] in rows

    found = detections(target)
    for number, one in enumerate(found):
        one["keypoints"] = one["keypoints"] + torch.tensor([number, number / 2, 0])
    meter.reset()
    meter.add(found, target)
    test = CocoKeypoints(file, "test", count, image_size=96)
    test.write_results(tmp_path / "out.json", [([one["image_id"] for one in target], found)])
    if count == 17:
        coco = json.loads(file.read_text())
        for one in coco["annotations"]:
            one.setdefault("keypoints", [0] * 51)
            one.setdefault("num_keypoints", 0)
        file.write_text(json.dumps(coco))
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(file))
            judge = COCOeval(truth, truth.loadRes(str(tmp_path / "out.json")), "keypoints")
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        assert meter.value()["keypoint"]["AP"] == pytest.approx(100 * judge.stats[0], abs=0.01)
    assert 0 < meter.summary()["keypoint_ap"] < 100 and meter.summary()["box_ap"] == pytest.approx(100)


def test_points_are_drawn_with_their_skeleton(drawn):
    data = all_of(drawn)
    images, target = (part[:1] for part in batch_of(data))
    without = [{name: values for name, values in one.items() if name != "keypoints"} for one in detections(target)]
    (strip,) = data.draw(images, target, without)
    half = (strip.shape[2] - 8) // 2
    left, right = strip[:, 24:, :half].int(), strip[:, 24:, -half:].int()  # under the headings
    x, y, _ = (8 * target[0]["keypoints"][0, 0].long()).tolist()
    assert (left - right)[:, y, x].abs().sum() > 60 and (left - right)[:, y, x + 80].abs().sum() == 0


BAD = {
    "another number": (lambda coco: None, 5, "has 3 keypoints of an object, not 5: --keypoints=3"),
    "too few": (
        lambda coco: coco["annotations"][0].update(keypoints=[1, 2, 2]),
        3,
        "has 1 keypoints of an object, not 3",
    ),
    "a part of a point": (
        lambda coco: coco["annotations"][0].update(keypoints=[1, 2]),
        3,
        "annotation 2: keypoints are no",
    ),
    "words": (lambda coco: coco["annotations"][0].update(keypoints="left"), 3, "annotation 2: keypoints are no list"),
    "none": (
        lambda coco: [one.pop("keypoints", 0) for one in coco["annotations"]],
        3,
        "has no keypoints: give person_k",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_keypoints_are_one_line(tmp_path, case):
    spoil, count, words = BAD[case]
    coco = content()
    spoil(coco)
    file = write(tmp_path, coco, "person_keypoints_train2017.json")
    with pytest.raises(UserError, match=words):
        all_of(file, keypoints=count)
