"""PASCAL VOC's XML: boxes, classes, lists and difficult objects, as VOC means them; bad files."""

import numpy as np
import pytest
import torch
from coco_files import batch_of, perfect
from PIL import Image

from data import VOC
from utils import UserError

SIZE = "<size><width>64</width><height>48</height><depth>3</depth></size>"


def thing(name="bolt", box=(7, 7, 24, 18), difficult=0):
    """An <object>; its box is VOC's, 1 the first pixel, and the last one belongs to it."""
    corners = "".join(f"<{key}>{side}</{key}>" for key, side in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"\n<object><name>{name}</name><difficult>{difficult}</difficult>\n<bndbox>{corners}</bndbox></object>"


def draw(folder, stem, *objects, size=SIZE, filename="", beside=False):
    """A picture and its XML file."""
    places = [folder if beside else folder / name for name in ("JPEGImages", "Annotations")]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(stem)).integers(0, 60, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(places[0] / f"{stem}.jpg")
    text = f"<annotation><filename>{filename or stem}</filename>{size}{''.join(objects)}</annotation>"
    (places[1] / f"{stem}.xml").write_text(text)
    return folder


def draw_four(folder, **options):
    for number in range(4):
        draw(folder, f"2007_{number}", thing(), thing("nut", (31, 1, 64, 48)), **options)
    return folder


def all_of(root, mode="val", **options):
    return VOC(root, mode, image_size=64, val_data_root=[root], **options)


@pytest.mark.parametrize("beside", [False, True])
def test_boxes_and_classes_are_those_of_the_xml_files(tmp_path, capsys, beside):
    data = all_of(draw_four(tmp_path, beside=beside))
    assert data.classes == ["background", "bolt", "nut"] and len(data) == 4 and not data.broken
    target = data[0][1]
    assert target["boxes"].tolist() == [[6, 6, 24, 18], [30, 0, 64, 48]] and target["labels"].tolist() == [1, 2]
    assert target["area"].tolist() == [18 * 12, 34 * 48] and target["masks"][0].sum() == 18 * 12
    assert "8 boxes without an outline, used as mask; --masks=False" in capsys.readouterr().out
    meter, (_, target) = data.meter(), batch_of(data)
    meter.add(perfect(target), target)
    assert list(meter.summary().values()) == pytest.approx([100] * 5)


def test_lists_divide_a_folder_and_may_be_roots_themselves(tmp_path, capsys):
    draw_four(tmp_path)
    assert (len(VOC(tmp_path, "train")), len(VOC(tmp_path, "val"))) == (3, 1)  # 70/30
    lists = tmp_path / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_0\n2007_1\n\n")
    (lists / "val.txt").write_text("2007_2\n")
    (lists / "trainval.txt").write_text("2007_0\n2007_1\n2007_2\n")
    stems = lambda data: sorted(picture.path.stem for picture in data.pictures)  # noqa: E731
    assert stems(VOC(tmp_path, "train")) == ["2007_0", "2007_1"] and stems(VOC(tmp_path, "val")) == ["2007_2"]
    assert stems(all_of(tmp_path, "train")) == ["2007_0", "2007_1"] and stems(all_of(tmp_path)) == ["2007_2"]
    assert "is divided by ImageSets/Main/train.txt and val.txt" in capsys.readouterr().out
    assert stems(all_of(lists / "trainval.txt", "train")) == ["2007_0", "2007_1", "2007_2"]
    (lists / "val.txt").write_text("2007_2\n2008_1\n")
    with pytest.raises(UserError, match=r"val.txt:2: there is no XML file of 2008_1"):
        VOC(tmp_path, "val")


def test_difficult_objects_are_not_trained_on_and_detections_of_them_are_not_wrong(tmp_path, capsys):
    for number in range(2):
        draw(tmp_path, f"{number}", thing(), thing(box=(31, 1, 60, 40), difficult=1))
    train = all_of(tmp_path, "train")
    assert train[0][1]["boxes"].tolist() == [[6, 6, 24, 18]]
    assert "2 of 4 objects are difficult, and are not trained on; --crowds" in capsys.readouterr().out
    assert len(all_of(tmp_path, "train", crowds="objects")[0][1]["boxes"]) == 2 and not capsys.readouterr().out
    val = all_of(tmp_path)
    _, target = batch_of(val)
    assert target[0]["iscrowd"].tolist() == [0, 1]

    def ap(box):  # of the object, and of a surer detection that is at `box`, twice
        found = perfect(target)
        for one in found:
            one["boxes"] = torch.stack([one["boxes"][0], torch.tensor(box), torch.tensor(box)])
            one["labels"], one["scores"] = torch.ones(3, dtype=torch.int64), torch.tensor([0.5, 0.9, 0.8])
            del one["masks"]
        meter = val.meter()
        meter.add(found, target)
        return meter.summary()

    assert ap([30.0, 0, 60, 40])["box_ap50"] == ap([30.0, 0, 58, 40])["box_voc_map"] == pytest.approx(100)
    assert ap([40.0, 10, 50, 20])["box_voc_map"] < 60  # in it, as in a crowd, but not of its size
    draw_four(tmp_path / "hard")
    for path in (tmp_path / "hard/Annotations").iterdir():
        path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))
    with pytest.raises(UserError, match="hard has nothing to train on: all 8 objects are difficult"):
        all_of(tmp_path / "hard", "train")
    assert len(all_of(tmp_path / "hard", "train", crowds="objects")) == 4


def test_sizes_may_be_missing_and_boxes_without_an_area_are_counted(tmp_path, capsys):
    draw(tmp_path, "a", thing(), thing(box=(9, 9, 8, 30)), size="")
    draw(tmp_path, "b", thing(box=("7.0", " 7", "24", "18")), thing(box=(70, 7, 80, 18)))
    zero = SIZE.replace("64", "0").replace("48", "0")
    draw(tmp_path, "c", thing(), size=zero)
    data = all_of(tmp_path)
    assert [data[index][1]["boxes"].tolist() for index in range(3)] == [[[6, 6, 24, 18]]] * 3
    assert {(one.height, one.width) for one in data.pictures} == {(48, 64)}
    assert f"{tmp_path}: 2 boxes without an area in the picture, left out" in capsys.readouterr().out


def test_pictures_are_found_by_their_stems_or_by_filename(tmp_path, capsys):
    draw_four(tmp_path)
    pictures = tmp_path / "JPEGImages"
    (pictures / "2007_0.jpg").rename(pictures / "other.jpg")
    draw(tmp_path, "2007_0", thing(), filename=r"C:\shots\other.jpg")
    (pictures / "2007_0.jpg").rename(pictures / "alone.jpg")
    (tmp_path / "Annotations/._2007_1.xml").write_bytes(b"\0")  # of a Mac
    assert "other.jpg" in {picture.path.name for picture in all_of(tmp_path).pictures}
    assert f"ignoring 1 picture of {pictures} without an XML file" in capsys.readouterr().out
    (pictures / "2007_1.png").write_bytes((pictures / "2007_1.jpg").read_bytes())
    with pytest.raises(UserError, match=r"2007_1.xml may be about .*2007_1.jpg or .*2007_1.png: write one of"):
        all_of(tmp_path)
    (pictures / "2007_1.png").unlink()
    (pictures / "2007_1.jpg").unlink()
    assert [one.rpartition("/")[2] for one in all_of(tmp_path).broken] == ["2007_1 (No such file or directory)"]


def test_class_name_txt_fixes_the_classes_and_others_are_refused_by_file_and_line(tmp_path):
    draw_four(tmp_path)
    (tmp_path / "class_name.txt").write_text("nut\nbolt\nscrew\n")
    assert all_of(tmp_path).classes == ["background", "nut", "bolt", "screw"]
    draw(tmp_path, "2008", thing(), thing("cog"))  # an object has two lines
    with pytest.raises(UserError, match=r"2008.xml:4: the class cog is none of the 3 of .*: nut, bolt, screw"):
        all_of(tmp_path)
    other = draw(tmp_path / "other", "1", thing("wheel"))
    draw_four(tmp_path / "train")
    with pytest.raises(UserError, match=r"1.xml:2: the class wheel is none of the 2 of .*train: bolt, nut"):
        VOC(tmp_path / "train", "val", val_data_root=[other])
    assert VOC(tmp_path / "gone", "val", val_data_root=[other]).classes == ["background", "wheel"]


LAUGHS = '<!DOCTYPE a [<!ENTITY b "haha"><!ENTITY c "&b;&b;&b;">]>\n<annotation>&c;</annotation>'
BAD = {
    "cut off": ("<annotation>\n<object>", r"x.xml:2: no sound XML \(no element found\)"),
    "empty": ("", "x.xml:1: no sound XML"),
    "entities": (LAUGHS, "x.xml:1: it declares the entity b"),
    "files as entities": (LAUGHS.replace('"haha"', 'SYSTEM "file:///etc/hosts"'), "x.xml:1: it declares the entity b"),
    "something else": ("<html></html>", "x.xml:1: it begins with <html>, not <annotation>"),
    "no name": (f"<annotation>{thing('')}</annotation>", "x.xml:2: the object has no name"),
    "no box": ("<annotation>\n<object><name>nut</name></object></annotation>", "x.xml:2: nut needs a bndbox of four"),
    "a word": (f"<annotation>{thing(box=(1, 2, 'wide', 4))}</annotation>", "x.xml:3: bolt needs a bndbox .*'wide'"),
    "nan": (f"<annotation>{thing(box=(1, 'nan', 3, 4))}</annotation>", "x.xml:3: bolt needs a bndbox .*'nan'"),
    "an unknown encoding": (
        "<?xml version='1.0' encoding='gbk'?><annotation/>",
        "x.xml.*: (save it as UTF-8|no sound)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_xml_file_is_one_line_with_its_name_and_line(tmp_path, case):
    text, words = BAD[case]
    draw(tmp_path, "x")
    (tmp_path / "Annotations/x.xml").write_text(text)
    with pytest.raises(UserError, match=words) as error:
        all_of(tmp_path)
    assert "\n" not in str(error.value)


def test_folders_without_xml_files_say_what_is_needed(tmp_path):
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(UserError, match="there is no XML file in .*: give a folder with Annotations/ and JPEGImages/"):
        all_of(tmp_path)
    with pytest.raises(UserError, match="there is no folder gone: give a folder with Annotations/"):
        VOC("gone", "train")


def test_pictures_to_predict_are_those_of_jpegimages(tmp_path):
    data = VOC(draw_four(tmp_path), "test", image_size=32)
    assert len(data) == 4 and [data[index][1] for index in range(4)] == [1, 2, 3, 4]
    (tmp_path / "list.txt").write_text("2007_0\n")
    with pytest.raises(UserError, match="list.txt is a list, and test needs a folder: give .*JPEGImages"):
        VOC(tmp_path / "list.txt", "test")
