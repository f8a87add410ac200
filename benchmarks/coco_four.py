"""A COCO file of four pictures, to learn by heart: python -m benchmarks.coco_four instances_train2017.json new.json

The rule: the first four pictures, in the order of the file, of two to eight objects, no crowd among them, each object
of 32 x 32 pixels at least (what COCO calls medium or large).
"""

import json
import sys
from pathlib import Path

from data.coco.find import find_pictures
from data.coco.format import read_coco


def ordinary(picture):
    """Whether a picture follows the rule."""
    objects = picture.annotations
    return 2 <= len(objects) <= 8 and all(one["area"] >= 32**2 and not one["iscrowd"] for one in objects)


def write_four(source, path, count=4):
    """Write to `path` a COCO file of the first ordinary pictures of the COCO file `source`, with absolute paths."""
    source = Path(source)
    content = read_coco(source)
    kept = [picture for picture in find_pictures(source, content.pictures) if ordinary(picture)][:count]
    images = [{"id": one.id, "file_name": str(one.path), "height": one.height, "width": one.width} for one in kept]
    annotations = [annotation for picture in kept for annotation in picture.annotations]
    annotations = [{**annotation, "id": id} for id, annotation in enumerate(annotations, start=1)]
    categories = [{"id": id, "name": name} for id, name in content.categories.items()]
    Path(path).write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


if __name__ == "__main__":
    print(write_four(*sys.argv[1:]))
