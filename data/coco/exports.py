"""Annotations in other formats than COCO's: which they are, and how to get COCO's."""

import json
from pathlib import Path
from typing import Any

# What a file's outermost entries have, those of its first one where it is a list, and what it is then.
KINDS = [
    ({"shapes", "imagePath"}, "LabelMe's, a file for each picture: labelme2coco (pip) makes one COCO file of them"),
    ({"_via_img_metadata"}, "a project of VIA: there, Annotation > Export Annotations (COCO format)"),
    ({"regions", "filename"}, "VIA's own: open it there, then Annotation > Export Annotations (COCO format)"),
    ({"data", "annotations"}, "Label Studio's own: there, Export > COCO"),
    ({"image", "annotations"}, "CreateML's: export it as COCO, in Roboflow say"),
    ({"image_id", "category_id", "score"}, "a file of results, which are detections and no annotations"),
    ({"categories", "items"}, "Datumaro's: datum convert -f coco"),
    ({"objects", "size"}, "Supervisely's, a file for each picture: export it as COCO"),
]
CVAT = "CVAT's own XML: there, Export dataset > COCO 1.0 (or PASCAL VOC, for --dataset=VOC)"


def foreign(content: Any) -> str:
    """What a JSON file's content is, and how to get COCO's of it, in words; "" for what is not known."""
    entries = (
        content if isinstance(content, list) else [content, *(content.values() if isinstance(content, dict) else [])]
    )
    first = [one for one in entries[:2] if isinstance(one, dict)]
    return next((words for keys, words in KINDS for one in first if keys <= one.keys()), "")


def foreign_file(path: Path) -> str:
    """`foreign` of a file, which need not be JSON."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        return CVAT if "<annotations>" in text[:1000] else foreign(json.loads(text))
    except (OSError, ValueError, RecursionError):
        return ""
