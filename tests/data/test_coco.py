"""CocoMask and its meter: COCO's format in and out, boxes and masks that stay together, bad files."""

import contextlib
import csv
import io
import json
import math

import numpy as np
import pytest
import torch
from coco_files import HEIGHT, WIDTH, all_of, annotation, batch_of, content, noisy, perfect, write
from conftest import main
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from runs import measures

from data import CocoMask
from data.broken import refuse_broken
from data.coco.data_set import flip
from data.coco.format import draw_mask, run_lengths
from data.coco.meter import STATS, voc_ap
from utils import UserError
from utils.metrics.meters import write_report
from utils.train.loader import make_loader
from utils.train.seeds import generator


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The COCO file of content(); not to be changed by a test."""
    return write(tmp_path_factory.mktemp("coco"), content())


def test_an_item_is_the_picture_in_a_square_with_all_that_is_known_of_it(drawn):
    data = all_of(drawn, "train", size=128)
    square, target = next(data[index] for index in range(6) if data[index][1]["image_id"] == 1)
    assert square.shape == (3, 128, 128) and square.dtype == torch.uint8
    assert target["size"] == (96, 128) and not square[:, 96:].any() and square[:, 90:96].any()
    assert target["boxes"].tolist() == [[12, 12, 48, 36], [72, 12, 120, 48]]  # twice as large, x1 y1 x2 y2
    assert target["labels"].tolist() == [1, 3] and target["labels"].dtype == torch.int64
    assert target["area"].tolist() == [18 * 12, 24 * 18 * 5 / 9] and target["iscrowd"].tolist() == [0, 0]
    assert target["masks"].shape == (2, 128, 128) and target["masks"].dtype == torch.uint8
    block = torch.zeros(128, 128, dtype=torch.uint8)
    block[12:36, 12:48] = 1
    assert torch.equal(target["masks"][0], block)
    assert target["masks"][1].sum() == 4 * 240
    assert square[1, 12:36, 12:48].float().mean() > 140 > 60 > square[1, 60:90, :60].float().mean()


def test_gaps_in_the_category_ids_are_named_unused(drawn):
    assert all_of(drawn).classes == ["background", "block", "unused", "cross"]


def test_pictures_are_split_by_their_names_or_taken_from_a_file_of_their_own(tmp_path, drawn):
    names = lambda data: {picture.name for picture in data.pictures}  # noqa: E731
    train, val = CocoMask(drawn, "train", image_size=32), CocoMask(drawn, "val", image_size=32)
    assert (len(train), len(val)) == (4, 2) and not names(train) & names(val)
    assert len(CocoMask(drawn, "val", image_size=32, val_size=1)) == 1
    other = write(tmp_path, content(3), "instances_val2017.json")
    assert len(CocoMask(drawn, "train", image_size=32, val_data_root=[other])) == 6
    assert len(CocoMask(drawn, "val", image_size=32, val_data_root=[other])) == 3
    assert len(CocoMask(drawn, "val", image_size=32, val_data_root=[tmp_path])) == 3  # the folder finds it
    assert len(CocoMask([drawn.parent.parent], "train", image_size=32, val_data_root=[other])) == 6
    assert len(CocoMask("gone.json", "val", image_size=32, val_data_root=[other])) == 3  # not needed to measure
    with pytest.raises(UserError, match="two are needed, or give --val-data-root"):
        CocoMask(write(tmp_path / "one", content(1)), "train")


def test_pictures_are_looked_for_beside_the_file(tmp_path):
    for place in ("images/train2017", "train2017", "images", "annotations"):
        folder = tmp_path / place.replace("/", "_")
        file = write(folder, content(2))
        (folder / place).parent.mkdir(exist_ok=True)
        if place == "annotations":
            for path in (folder / "images/train2017").iterdir():
                path.rename(folder / place / path.name)
        elif place == "images":
            for path in (folder / "images/train2017").iterdir():
                path.rename(folder / "images" / path.name)
        elif place == "train2017":
            (folder / "images/train2017").rename(folder / place)
        assert {picture.path.parent for picture in all_of(file).pictures} == {(folder / place).absolute()}


def test_an_epoch_may_repeat_the_pictures(drawn):
    data = all_of(drawn, "train", size=32, repeat=3)
    order = data.order(generator(0, 0, "cpu"))
    assert order.bincount().tolist() == [3] * 6 and order[:6].tolist() != order[6:12].tolist()
    assert len(make_loader(data, 2, 0, seed=0)) == 9


def test_pictures_without_objects_are_not_trained_on_but_validated_on(tmp_path, capsys):
    coco = content(4)
    coco["annotations"] = [one for one in coco["annotations"] if one["image_id"] > 2]
    coco["annotations"].append(annotation(99, 2, 1, 0, 0, 30, 30, iscrowd=1))  # nothing but a crowd
    file = write(tmp_path, coco)
    assert [picture.id for picture in sorted(all_of(file, "train").pictures)] == [3, 4]
    assert f"note: not training on 2 pictures of {file} without objects" in capsys.readouterr().out
    val = all_of(file)
    assert len(val) == 4
    empty = next(target for _, target in map(val.__getitem__, range(4)) if target["image_id"] == 1)
    assert empty["boxes"].shape == (0, 4) and empty["masks"].shape == (0, WIDTH, WIDTH)


def test_boxes_of_no_size_are_left_out_and_counted(tmp_path, capsys):
    coco = content(2)
    for id, (w, h) in enumerate([(0, 5), (5, 0), (-3, 4), (5, -1)], start=50):
        coco["annotations"].append(annotation(id, 1, 1, 3, 3, w, h))
    coco["annotations"].append(annotation(60, 1, 1, WIDTH + 5, 3, 10, 10))  # beside the picture
    file = write(tmp_path, coco)
    data = all_of(file, "train")
    assert sorted(len(data[index][1]["boxes"]) for index in range(2)) == [2, 2]
    assert f"note: {file}: 5 boxes without an area in the picture, left out" in capsys.readouterr().out


def test_crowds_are_not_trained_on_and_detections_in_them_are_not_wrong(tmp_path):
    coco = content(2)
    lengths = [0, HEIGHT * 20, HEIGHT * (WIDTH - 20)]  # the left 20 columns, as uncompressed run lengths
    region = {"size": [HEIGHT, WIDTH], "counts": lengths}
    coco["annotations"] = [one for one in coco["annotations"] if one["category_id"] == 3]
    coco["annotations"] += [annotation(90 + n, n, 3, 0, 0, 20, HEIGHT, iscrowd=1, segmentation=region) for n in (1, 2)]
    file = write(tmp_path, coco)
    train, val = all_of(file, "train"), all_of(file)
    assert [train[index][1]["labels"].tolist() for index in range(2)] == [[3], [3]]
    assert [val[index][1]["iscrowd"].tolist() for index in range(2)] == [[0, 1], [0, 1]]
    assert val[0][1]["masks"][1, :HEIGHT].sum() == HEIGHT * 20
    _, target = batch_of(val)
    found = perfect(target)
    for one in found:  # a sure detection within the crowd, and the object itself less sure
        one["scores"] = torch.tensor([0.5, 0.99])
        one["boxes"][1] = torch.tensor([2.0, 2, 12, 12])
        one["masks"][1] = 0
        one["masks"][1, 0, 2:12, 2:12] = 1
    meter = val.meter()
    meter.add(found, target)
    assert list(meter.summary().values()) == pytest.approx([100] * 5)
    for one in found:
        one["boxes"][1], one["masks"][1] = torch.tensor([30.0, 40, 40, 48]), 0
    meter.reset()
    meter.add(found, target)
    assert meter.summary()["box_ap50"] < 60 and meter.summary()["box_voc_map"] < 60  # outside of it, it is wrong


def test_a_mask_may_be_run_lengths_and_compressed_ones(tmp_path):
    shape = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    shape[10:40:3, 5:60:7] = 1
    shape[20:30, 20:50] = 1
    packed = coco_mask.encode(shape)["counts"].decode()
    unpacked = {"size": [HEIGHT, WIDTH], "counts": run_lengths(packed)}
    assert coco_mask.frPyObjects(unpacked, HEIGHT, WIDTH)["counts"].decode() == packed
    coco = content(2)
    coco["annotations"][0]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": packed}
    picture = next(one for one in all_of(write(tmp_path, coco)).pictures if one.id == 1)
    assert np.array_equal(draw_mask(picture.annotations[0], picture), shape)


def test_a_box_without_an_outline_gets_itself_as_mask(tmp_path, capsys):
    coco = content(2)
    del coco["annotations"][1]["segmentation"], coco["annotations"][1]["area"], coco["annotations"][1]["iscrowd"]
    file = write(tmp_path, coco)
    picture = next(one for one in all_of(file).pictures if one.id == 1)
    assert draw_mask(picture.annotations[1], picture).sum() == picture.annotations[1]["area"] == 24 * 18
    assert f"note: {file}: 1 box without an outline, used as mask" in capsys.readouterr().out


def test_pictures_that_are_missing_broken_or_of_another_size_are_named(tmp_path):
    file = write(tmp_path, content(6))
    folder = tmp_path / "images/train2017"
    (folder / "000000000001.jpg").unlink()
    (folder / "000000000002.jpg").write_bytes(b"no picture")
    Image.new("RGB", (HEIGHT, WIDTH)).save(folder / "000000000003.jpg")
    data = all_of(file, "train")
    assert {picture.id for picture in data.pictures} == {4, 5, 6}
    assert sorted(data.broken) == [
        f"{folder / '000000000001.jpg'} (No such file or directory)",
        f"{folder / '000000000002.jpg'} (cannot identify the image: it is of no kind that Pillow can read)",
        f"{folder / '000000000003.jpg'} (48x64, its annotations say 64x48)",
    ]
    with pytest.raises(UserError, match="3 of 6 .*48x64, its annotations say 64x48"):
        refuse_broken(data)


def test_pictures_are_read_as_they_are_stored_whatever_exif_says(tmp_path):
    file = write(tmp_path, content(2))
    path = tmp_path / "images/train2017/000000000001.jpg"
    before = dict(zip((1, 2), (item[0] for item in map(all_of(file).__getitem__, (0, 1))), strict=True))
    jpeg = path.read_bytes()
    for orientation in (3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        tag = exif.tobytes()
        path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + jpeg[2:])
        data = all_of(file)
        assert Image.open(path).getexif()[0x0112] == orientation
        assert not data.broken and all(torch.equal(data[n - 1][0], before[n]) for n in before)


def change(**values):
    return lambda coco: coco["annotations"][0].update(values)


def extend(name, *entries):
    return lambda coco: coco[name].extend(entries)


BAD = {
    "an unknown image": (change(image_id=77), "annotation 2 names the image 77, which is not in the list `images`"),
    "an unknown category": (change(category_id=2), "names the category 2, which is not in the list `categories`"),
    "a bad box": (change(bbox=[1, 2, "wide", 4]), "needs a bbox of four numbers"),
    "a box that is not a number": (change(bbox=[1, 2, math.nan, 4]), "needs a bbox of four numbers"),
    "no box": (change(bbox=None), "needs a bbox of four numbers"),
    "an outline beyond reason": (change(segmentation=[[0, 0, 1e10, 5, 3, 3]]), "neither a list of polygons"),
    "a bad outline": (change(segmentation="left"), "neither a list of polygons"),
    "a mask of another size": (change(segmentation={"size": [9, 9], "counts": [81]}), r"of the size \[9, 9\], but its"),
    "a damaged mask": (change(segmentation={"size": [48, 64], "counts": [50, 5000]}), "do not sum to 48 x 64"),
    "a damaged packed mask": (change(segmentation={"size": [48, 64], "counts": "zzzz"}), "do not sum to 48 x 64"),
    "a category without id": (extend("categories", {"id": None, "name": "none"}), "a category needs an id and a name"),
    "a box that is null": (change(bbox=[1, None, 3, 4]), r"needs a bbox of four numbers.* not \[1, None, 3, 4\]"),
    "an image that is null": (change(image_id=None), "annotation 2 names the image None, which is not in the list"),
    "a category that is null": (change(category_id=None), "annotation 2 names the category None, which is not in"),
    "an outline that is a number": (change(segmentation=7), "neither a list of polygons"),
    "an outline that is not a number": (change(segmentation=[[0, 0, math.nan, 5, 3, 3]]), "neither a list of polygons"),
    "an outline of an odd number": (change(segmentation=[[0, 0, 9, 5, 3, 3, 1]]), "neither a list of polygons"),
    "a category twice": (extend("categories", {"id": 1, "name": "other"}), "categories have the id 1, block and other"),
    "a nameless category": (extend("categories", {"id": 5}), "a category needs an id and a name"),
    "no categories": (lambda coco: coco["categories"].clear(), "has no categories"),
    "an image twice": (lambda coco: coco["images"].append(coco["images"][0]), "two images have the id 1"),
    "an image without a size": (
        extend("images", {"id": 9, "file_name": "9.jpg"}),
        "height and width, its height is None",
    ),
    "an image without an id": (lambda coco: coco["images"][1].update(id=True), "image 1 needs .*, its id is True"),
    "an image of half a pixel": (
        lambda coco: coco["images"][1].update(width=6.5),
        "image 1 needs .*, its width is 6.5",
    ),
    "an image without a name": (lambda coco: coco["images"][1].update(file_name=""), "its file_name is ''"),
    "no images": (lambda coco: [coco[name].clear() for name in ("images", "annotations")], "lists no images"),
    "no list of annotations": (lambda coco: coco.pop("annotations"), "no such COCO file.* no list `annotations`"),
    "an odd entry": (extend("annotations", 7), "an entry of `annotations` is not"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_line(tmp_path, case):
    spoil, words = BAD[case]
    coco = json.loads(json.dumps(content(3)))
    file = write(tmp_path, coco)
    spoil(coco)
    file.write_text(json.dumps(coco))
    with pytest.raises(UserError, match=words) as error:
        CocoMask(file, "train", image_size=32)
    assert "\n" not in str(error.value) and str(file) in str(error.value)


def test_what_is_no_coco_file_is_one_clear_line_too(tmp_path, drawn):
    for text in ("{", "[1, 2]", "7", "\x00", "[" * 100_000):
        (tmp_path / "deep").mkdir(exist_ok=True)
        (tmp_path / "deep/odd.json").write_text(text)
        with pytest.raises(UserError, match="odd.json .*give a COCO file of annotations"):
            CocoMask(tmp_path / "deep/odd.json", "train")
    with pytest.raises(UserError, match="^there is no file .*gone.json: give a COCO file"):
        CocoMask(tmp_path / "gone.json", "train")
    with pytest.raises(
        UserError,
        match=r"holds no files annotations/instances_\*train\*.json or \*.json \(deep/odd.json\): name the file",
    ):
        CocoMask(tmp_path, "train")
    for year in (2014, 2017):
        write(tmp_path, content(2), f"instances_train{year}.json")
    with pytest.raises(UserError, match="2 files .*_train2014.json, .*_train2017.json.*: name the file"):
        CocoMask(tmp_path, "train")
    lost = write(tmp_path / "lost", content(2))
    (tmp_path / "lost/images").rename(tmp_path / "elsewhere")
    with pytest.raises(
        UserError, match=r"no picture of .* was found \(2 are listed, the first is 000000000001.jpg\); looked in"
    ):
        CocoMask(lost, "train")
    with pytest.raises(UserError, match="have the same image id, 1$"):
        CocoMask([drawn, tmp_path / "annotations/instances_train2014.json"], "train")


def test_files_of_other_categories_do_not_go_together(tmp_path, drawn):
    coco = content(2)
    coco["categories"] = [{"id": 1, "name": "block"}, {"id": 3, "name": "circle"}]
    other = write(tmp_path, coco, "instances_val2017.json")
    with pytest.raises(UserError, match="differ in their categories: 3 circle is in one of them only"):
        CocoMask(drawn, "val", val_data_root=[other])
    with pytest.raises(UserError, match="differ in their categories"):
        CocoMask([drawn, other], "train")


def test_prepare_cuts_the_padding_away_and_flips_everything_together(tmp_path):
    coco = content(24)
    coco["images"][0].update(width=HEIGHT, height=WIDTH)  # one stands upright
    coco["annotations"][1].update(bbox=[0, 0, 24, 18], segmentation=annotation(0, 1, 3, 0, 0, 24, 18)["segmentation"])
    data = all_of(write(tmp_path, coco), "train")
    plain = {item[1]["image_id"]: item for item in map(data.__getitem__, range(24))}
    images, target = batch_of(data)
    flips = 0
    for image, one in zip(images, target, strict=True):
        before, truth = plain[one["image_id"]]
        h, w = truth["size"]
        before = before[:, :h, :w].float() / 255
        assert image.shape == before.shape == (3, *one["masks"].shape[1:]) and image.dtype == torch.float32
        flipped = not torch.equal(image, before)
        flips += flipped
        assert torch.equal(image, before.flip(-1) if flipped else before)
        assert torch.equal(one["masks"], truth["masks"][:, :h, :w].flip(-1) if flipped else truth["masks"][:, :h, :w])
        for mask, (x1, y1, x2, y2) in zip(one["masks"], one["boxes"].tolist(), strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()  # the box still surrounds its mask
            assert [columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1] == [x1, y1, x2, y2]
    assert 4 < flips < 20
    same = [image.equal(other) for image, other in zip(images, batch_of(data)[0], strict=True)]
    assert all(same)  # a function of the generator


def test_flip_twice_is_identity(drawn):
    data = all_of(drawn)
    for image, target in zip(*batch_of(data), strict=True):
        for coin in (True, False):
            once = flip(image, target, torch.tensor(coin))
            assert torch.equal(once[0], image) is not coin
            twice, back = flip(*once, torch.tensor(coin))
            assert torch.equal(twice, image)
            assert all(back[name] is value or torch.equal(back[name], value) for name, value in target.items())


def test_the_truth_and_what_was_found_are_drawn_side_by_side(drawn, written):
    data = all_of(drawn)
    images, target = batch_of(data)
    found = perfect(target)
    found[1] = {name: values[:0] for name, values in found[1].items()}
    found[2]["scores"][0] = 0.3
    found[3]["scores"][:] = 0.3
    pictures = data.draw(images, target, found)
    shape = 3, 24 + 8 * 48, 2 * 8 * 64 + 8
    assert len(pictures) == 4 and all(p.dtype == torch.uint8 and p.shape == shape for p in pictures)
    headings = [text for text in written if ": " in text]
    counts = [f"{n} object{'s'[: n != 1]}" for n in (len(one["labels"]) for one in target)]
    assert headings[::2] == [f"truth: {count}" for count in counts[:4]]
    assert headings[1::2][:2] == [
        f"found: {counts[0]} with a score of at least 0.5",
        "found: nothing with a score of at least 0.5",
    ]
    name = data.classes[target[3]["labels"][0]]
    assert headings[-1] == f"found: nothing with a score of at least 0.5; the highest: {name} 0.30"
    pictures = [picture[:, 24:] for picture in pictures]
    left, right = pictures[1][:, :, :512], pictures[1][:, :, 520:]
    plain = (images[1] * 255).round().byte().repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert torch.equal(right, plain) and not torch.equal(left, plain)  # nothing was found, something was there
    x1, y1, x2, y2 = (8 * target[2]["boxes"][0].long()).tolist()
    inside = (images[2] * 255).round().byte().repeat_interleave(8, 1).repeat_interleave(8, 2)[:, y1:y2, x1:x2]
    assert torch.equal(pictures[2][:, :, 520:][:, y1:y2, x1:x2], inside)  # not sure enough
    alone = [picture[:, 24:] for picture in data.draw(images, target, None)]  # a batch of training
    assert len(alone) == 4 and all(
        torch.equal(one, both[:, :, :512]) for one, both in zip(alone, pictures, strict=True)
    )


@pytest.mark.parametrize("size", [WIDTH, 96])
def test_perfect_detections_are_100_percent_and_none_0(drawn, tmp_path, size):
    data = all_of(drawn, size=size)
    meter = data.meter()
    names = ["box_ap50", "mask_ap50", "box_ap", "mask_ap", "box_voc_map"]
    assert list(meter.summary()) == names and all(math.isnan(v) for v in meter.summary().values())
    _, target = batch_of(data)
    meter.add(perfect(target)[:3], target[:3])
    meter.add(perfect(target)[3:], target[3:])
    assert list(meter.summary().values()) == pytest.approx([100] * 5)
    write_report(meter, {}, tmp_path)
    assert measures(tmp_path) == pytest.approx(meter.summary())
    rows = list(csv.reader(open(tmp_path / "coco.csv")))
    assert rows[0] == ["measure", "box", "mask"] and rows[1] == ["AP", "100.00", "100.00"]
    assert rows[-2:] == [["AP block", "100.00", "100.00"], ["AP cross", "100.00", "100.00"]]
    boxes_only = [{name: values for name, values in one.items() if name != "masks"} for one in perfect(target)]
    meter.reset()
    meter.add(boxes_only, target)
    assert meter.summary()["box_ap"] == pytest.approx(100) and "mask_ap50" not in meter.summary()
    meter.reset()
    meter.add([{name: values[:0] for name, values in one.items()} for one in perfect(target)], target)
    assert list(meter.summary().values()) == [0] * 5


def test_a_state_is_continued_and_the_train_meter_measures_nothing(drawn):
    data = all_of(drawn)
    _, target = batch_of(data)
    whole, part, rest = data.meter(), data.meter(), data.meter()
    whole.add(noisy(target), target)
    part.add(noisy(target)[:2], target[:2])
    assert part.summary() != whole.summary()
    rest.load_state_dict(part.state_dict())
    rest.add(noisy(target)[2:], target[2:])
    assert rest.summary() == whole.summary() and 0 < whole.summary()["mask_ap"] < 100
    assert rest.measure() is rest.measure()  # computed once
    silent = all_of(drawn, "train").meter()
    silent.add([], target)
    assert silent.summary() == silent.value() == silent.state_dict() == {}


def test_the_json_of_results_is_pycocotools_own_and_gives_the_meters_numbers(tmp_path, capsys):
    file = write(tmp_path, content(zoom=2))  # crosses of 960 pixels, small ones, in medium boxes of 1728
    val = all_of(file, size=96)  # not the pictures' own size
    _, target = batch_of(val)
    found = noisy(target)
    meter = val.meter()
    meter.add(found, target)
    measured = meter.measure()
    assert capsys.readouterr().out == ""

    test = CocoMask(file, "test", image_size=96)
    by_id = {one["image_id"]: detections for one, detections in zip(target, found, strict=True)}
    images, ids = batch_of(test)
    assert ids == [1, 2, 3, 4, 5, 6] and images[0].shape == (3, 72, 96)
    test.write_results(tmp_path / "out.json", ((part, [by_id[id] for id in part]) for part in (ids[:4], ids[4:])))
    results = json.loads((tmp_path / "out.json").read_text())
    assert set(results[0]) == {"image_id", "category_id", "bbox", "score", "segmentation", "file_name"}
    assert results[0]["segmentation"]["size"] == [2 * HEIGHT, 2 * WIDTH]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        loaded = truth.loadRes(str(tmp_path / "out.json"))
        shapes = truth.loadRes([{key: one[key] for key in one if key != "bbox"} for one in results])
        for kind, name, detections in (("bbox", "box", loaded), ("segm", "mask", shapes)):
            judge = COCOeval(truth, detections, kind)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
            theirs = [100 * number if number > -1 else math.nan for number in judge.stats]
            assert [measured[name][stat] for stat in STATS] == pytest.approx(theirs, nan_ok=True)
            assert list(meter.value()[name].values()) == pytest.approx(theirs, abs=0.01, nan_ok=True)
            assert 0 < theirs[0] < 100 and theirs[3] != theirs[4]
    test.write_results(tmp_path / "out.json", iter([([1], [{name: v[:0] for name, v in found[0].items()}])]))
    assert json.loads((tmp_path / "out.json").read_text()) == []


def test_a_folder_of_numbered_pictures_is_predicted_too(tmp_path, drawn, capsys):
    folder = drawn.parent.parent / "images/train2017"
    data = CocoMask([folder], "test", image_size=32)
    assert [data[index][1] for index in range(6)] == [1, 2, 3, 4, 5, 6] and data[0][0].shape == (3, 32, 32)
    assert (data.pictures[0].height, data.pictures[0].width) == (HEIGHT, WIDTH)
    (tmp_path / "readme.txt").touch()
    with pytest.raises(UserError, match=r"no picture in .* \(1 other file\): give a COCO file or"):
        CocoMask(tmp_path, "test")
    (tmp_path / "000000000007.jpg").touch()
    empty = f"{tmp_path / '000000000007.jpg'} (cannot identify the image: it is empty)"
    assert CocoMask(tmp_path, "test").broken == [empty]
    assert "named by an id" not in capsys.readouterr().out
    (tmp_path / "000000000007.jpg").unlink()
    for name in ("tree.png", "house.png"):
        Image.new("RGB", (20, 30)).save(tmp_path / name)
    data = CocoMask(tmp_path, "test")
    assert [(picture.id, picture.path.name) for picture in data.pictures] == [(1, "house.png"), (2, "tree.png")]
    assert "their ids are 1, 2, ... by name" in capsys.readouterr().out
    with pytest.raises(UserError, match="^there is no folder .*gone: give a COCO file or a folder of pictures$"):
        CocoMask(tmp_path / "gone", "test")
    info = tmp_path / "image_info_test2017.json"  # as COCO's own: no annotations
    info.write_text(json.dumps({"images": [{**content()["images"][0], "file_name": str(folder / "000000000001.jpg")}]}))
    assert len(CocoMask(info, "test", image_size=32)) == 1


@pytest.mark.parametrize(
    "scores, right, truths, area",
    [
        ([0.9, 0.8, 0.7], [1, 1, 1], 3, 1.0),
        ([0.9, 0.8, 0.7], [0, 0, 0], 3, 0.0),
        ([], [], 2, 0.0),
        ([0.7, 0.9], [1, 0], 1, 0.5),  # sorted by score: the first is wrong
        ([0.9, 0.8, 0.7, 0.6], [1, 0, 1, 1], 4, 0.25 + 0.5 * 0.75),  # precision 1, then 3/4 for two steps of recall
        ([0.9, 0.8], [1, 1], 4, 0.5),  # half are never found
    ],
)
def test_voc_average_precision_of_known_arrays(scores, right, truths, area):
    assert voc_ap(np.array(scores), np.array(right, dtype=bool), truths) == pytest.approx(area)


def test_ssd_by_one_option_through_the_command_line(drawn, tmp_path):
    options = [f"--train-data-root={drawn}", "--dataset=CocoMask", "--image-size=64", "--batch-size=2", "--vis-port=1"]
    options += ["--num-workers=0", "--model=SSD", "--max-epoch=1", "--draw-freq=1"]
    done = main("train", *options, cwd=tmp_path, check=0)
    assert "val_box_ap50" in done.stdout
    (run,) = (tmp_path / "checkpoints").iterdir()
    assert (run / "coco.csv").exists() and list(run.rglob("val_0000_0*"))
    main("test", f"--test-data-root={drawn}", "--result-file=out.json", cwd=tmp_path, check=0)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(drawn))
        truth.loadRes(str(tmp_path / "out.json"))
