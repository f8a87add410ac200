"""Annotations in other formats than COCO's and VOC's are named, with the way to get those."""

import json

import pytest

from data import VOC, CocoMask
from utils import UserError

SHAPES = {"version": "5.0", "flags": {}, "shapes": [], "imagePath": "a.jpg", "imageData": None}
REGION = {"filename": "a.jpg", "size": 1, "regions": [], "file_attributes": {}}
KINDS = {
    "LabelMe": (SHAPES, "labelme2coco"),
    "VIA's project": ({"_via_settings": {}, "_via_img_metadata": {}}, "a project of VIA: there, Annotation > Export"),
    "VIA": ({"a.jpg1": REGION, "b.jpg1": REGION}, "VIA's own: open it there"),
    "Label Studio": ([{"id": 1, "data": {"image": "a.jpg"}, "annotations": []}], "there, Export > COCO"),
    "CreateML": ([{"image": "a.jpg", "annotations": []}], "CreateML's: export it as COCO"),
    "results": ([{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2], "score": 0.5}], "no annotations"),
    "Datumaro": ({"info": {}, "categories": {}, "items": []}, "datum convert"),
    "Supervisely": ({"size": {"height": 1, "width": 1}, "objects": []}, "Supervisely's"),
}
CVAT = '<?xml version="1.0"?>\n<annotations>\n<version>1.1</version><image id="0" name="a.jpg"></image>\n</annotations>'


@pytest.mark.parametrize("case", KINDS)
def test_another_tools_file_is_named_with_the_way_to_cocos(tmp_path, case):
    content, way = KINDS[case]
    (tmp_path / "a.json").write_text(json.dumps(content))
    for root in (tmp_path / "a.json", tmp_path):
        with pytest.raises(UserError, match=f"a.json is not COCO's, but .*{way}"):
            CocoMask(root, "train")
    (tmp_path / "b.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"a.json is not COCO's, but .*{way}"):
        CocoMask(tmp_path, "train")


def test_cvats_own_xml_is_named(tmp_path):
    (tmp_path / "annotations.xml").write_text(CVAT)
    with pytest.raises(UserError, match="annotations.xml is not COCO's, but CVAT's own XML: there, Export dataset"):
        CocoMask(tmp_path / "annotations.xml", "train")
    with pytest.raises(UserError, match="annotations.xml is not VOC's, but CVAT's own XML"):
        VOC(tmp_path, "train")
