"""COCO files that tests write, their data sets, and detections that are right, or right in part."""

import json

import numpy as np
import torch
from PIL import Image

from data import CocoMask
from utils.train.seeds import generator

CATEGORIES = [{"id": 3, "name": "cross"}, {"id": 1, "name": "block"}]  # 2 is a gap
WIDTH, HEIGHT = 64, 48


def annotation(id, image, category, x, y, w, h, **changes):
    """A block, or a cross whose outline is two polygons."""
    parts = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    if category == 3:
        a, b = (x, y + h / 3, w, h / 3), (x + w / 3, y, w / 3, h)
        parts = [[p, q, p + r, q, p + r, q + s, p, q + s] for p, q, r, s in (a, b)]
    area = w * h if category == 1 else w * h * 5 / 9
    entry = {"id": id, "image_id": image, "category_id": category, "bbox": [x, y, w, h], "area": area, "iscrowd": 0}
    return {**entry, "segmentation": parts, **changes}


def content(pictures=6, zoom=1):
    """A COCO file's content: in every picture a block and a cross, in multiples of 6 pixels, no two pictures alike."""
    images, annotations = [], []
    for n in range(1, pictures + 1):
        images.append({"id": n, "file_name": f"{n:012d}.jpg", "width": WIDTH * zoom, "height": HEIGHT * zoom})
        for id, category, *box in ((2 * n, 1, 6 * (n % 4), 6, 18, 12), (2 * n + 1, 3, 36, 6 * (n % 5), 24, 18)):
            annotations.append(annotation(id, n, category, *(zoom * side for side in box)))
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def write(folder, coco, name="instances_train2017.json"):
    """Write a COCO file and its pictures, colored where there are objects, as COCO lays them; returns its path."""
    split = name.rpartition("_")[2].partition(".")[0]
    for one in coco["images"]:
        pixels = np.random.default_rng(one["id"]).integers(0, 60, (one["height"], one["width"], 3), dtype=np.uint8)
        for entry in coco["annotations"]:
            if entry["image_id"] == one["id"]:
                x, y, w, h = (int(v) for v in entry["bbox"])
                pixels[y : y + h, x : x + w, entry["category_id"] % 3] += 150
        path = folder / "images" / split / one["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, quality=95)
    path = folder / "annotations" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(coco))
    return path


def all_of(file, mode="val", size=WIDTH, **options):
    return CocoMask(file, mode, image_size=size, val_data_root=[file], **options)


def batch_of(data):
    """All items of a data set as one prepared batch."""
    return data.prepare(*data.collate([data[index] for index in range(len(data))]), generator(0, 0, "cpu"))


def perfect(target):
    """The truth as a model's detections."""
    return [
        {
            "boxes": one["boxes"],
            "labels": one["labels"],
            "scores": torch.linspace(1, 0.9, len(one["labels"])),
            "masks": one["masks"][:, None].float(),
        }
        for one in target
    ]


def noisy(target, seed=0):
    """Detections that are right in part: boxes and masks moved, some objects twice, some missed, some labels wrong."""
    rng, found = torch.Generator().manual_seed(seed), []
    for one in perfect(target):
        twice = {name: values.repeat_interleave(2, 0) for name, values in one.items()}
        n = len(twice["labels"])
        keep = torch.rand(n, generator=rng) < 0.8
        twice["boxes"] = twice["boxes"] + 3 * torch.rand(n, 4, generator=rng) * torch.tensor([-1, -1, 1, 1])
        twice["boxes"] = twice["boxes"].clamp(0, one["masks"].shape[-2] if n else 0)
        twice["labels"] = torch.where(torch.rand(n, generator=rng) < 0.2, 4 - twice["labels"], twice["labels"])
        twice["scores"] = torch.rand(n, generator=rng)
        twice["masks"] = twice["masks"].roll(2, -1) * 0.9
        found.append({name: values[keep] for name, values in twice.items()})
    return found
