"""COCO's file format, https://cocodataset.org/#format-data: annotations read and checked, detections written."""

import json
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from torch.nn import functional as F

from data.pictures.split import RootError, shown
from utils import UserError
from utils.notices import counted

HIGHEST_ID = 10_000  # of a category: a model has an output for every id up to the highest
THIN = 0.01  # pixels; boxes that are not wider count as empty
FAR = 1e6  # pixels; the largest coordinate
WHERE = "give a COCO file of annotations, say annotations/instances_train2017.json"


class Picture(NamedTuple):
    """One picture of a COCO file. Height and width are the original's, in pixels."""

    id: int
    path: Path
    height: int
    width: int
    annotations: list[dict[str, Any]]  # image_id, category_id, bbox [x, y, w, h], area, iscrowd, segmentation

    @property
    def name(self) -> str:
        """The file's name, which decides between train and val."""
        return self.path.name


class Content(NamedTuple):
    """What read_coco returns."""

    categories: dict[int, str]  # {id: name}
    pictures: list[Picture]
    notes: list[str]  # what was left out, one line each


def find_json(root: str | Path, split: str) -> Path:
    """The COCO file that `root` names: the file itself, or the only annotations/instances_*<split>*.json in a folder.
    Raises UserError."""
    root = Path(root)
    if root.is_file():
        return root
    if not root.is_dir():
        raise RootError(root, f"there is no file {root}: {WHERE}")
    found = sorted(root.glob(f"annotations/instances_*{split}*.json"))
    if len(found) != 1:
        names = f" ({', '.join(path.name for path in found)})" if found else ""
        files = f"{len(found) or 'no'} files annotations/instances_*{split}*.json{names}"
        raise RootError(root, f"{root} holds {files}: name the file")
    return found[0]


def find_pictures(file: Path, pictures: Sequence[Picture]) -> list[Picture]:
    """The pictures of a COCO file with their full paths. Those of instances_train2017.json are in the first of these
    folders, relative to its own, that has any of them: ../images/train2017, ../train2017, ../images, the folder itself.
    Raises UserError."""
    base, name = file.absolute().parent, file.stem.rpartition("_")[2]
    folders = [base.parent / "images" / name, base.parent / name, base.parent / "images", base]
    for folder in folders:
        if any((folder / picture.path).is_file() for picture in pictures):
            return [picture._replace(path=folder / picture.path) for picture in pictures]
    raise UserError(f"no picture of {file} was found ({len(pictures)} are listed); looked in {shown(folders)}")


def read_coco(path: str | Path, labelled: bool = True) -> Content:
    """Read and check a COCO file. labelled=False: for a test file, only the pictures are read.

    A file is read only once, because the data sets of training and validation may share it; they never change it.
    Raises UserError, one line that names the file and the fault.
    """
    return _read_coco(Path(path), labelled, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read_coco(path: Path, labelled: bool, changed: int) -> Content:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({' '.join(str(error).split())}): {WHERE}") from None
    for name in ("images", "annotations", "categories") if labelled else ("images",):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise UserError(f"{path} is no such COCO file, it has no list `{name}`: {WHERE}")
        if not all(isinstance(entry, dict) for entry in content[name]):
            raise UserError(f"{path}: an entry of `{name}` is not {{...}}: {WHERE}")
    pictures: dict[int, Picture] = {}
    for number, entry in enumerate(content["images"]):
        id, name, size = entry.get("id"), entry.get("file_name"), (entry.get("height"), entry.get("width"))
        if not (whole(id) and isinstance(name, str) and name and all(whole(side) and side > 0 for side in size)):
            raise UserError(f"{path}: image {number} needs id, file_name, height and width, it has {short(entry)}")
        if id in pictures:
            raise UserError(f"{path}: two images have the id {id}, {pictures[id].path} and {name}")
        pictures[id] = Picture(id, Path(name), *size, [])
    if not labelled:
        return Content({}, list(pictures.values()), [])
    categories = read_categories(path, content["categories"])
    counts = {"without an area in the picture, left out": 0, "without an outline, used as mask": 0}
    for number, entry in enumerate(content["annotations"]):
        where = f"{path}: annotation {entry.get('id', f'number {number}')}"
        annotation = read_annotation(entry, categories, pictures, where)
        if annotation["segmentation"] is None:
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
            counts["without an outline, used as mask"] += 1
        picture = pictures[annotation["image_id"]]
        if min(clip(annotation["bbox"], picture)[2:]) > THIN:
            picture.annotations.append(annotation)
        else:
            counts["without an area in the picture, left out"] += 1
    notes = [f"{path}: {counted(count, 'box', 'boxes')} {what}" for what, count in counts.items() if count]
    return Content(categories, list(pictures.values()), notes)


def read_categories(path: Path, entries: list[dict[str, Any]]) -> dict[int, str]:
    """{id: name}. Raises UserError."""
    categories: dict[int, str] = {}
    for entry in entries:
        id, name = entry.get("id"), entry.get("name")
        if not whole(id) or not 1 <= id <= HIGHEST_ID or not isinstance(name, str) or not name:
            raise UserError(f"{path}: a category needs a name and an id from 1 to {HIGHEST_ID}, not {short(entry)}")
        if id in categories:
            raise UserError(f"{path}: two categories have the id {id}, {categories[id]} and {name}")
        categories[id] = name
    if not categories:
        raise UserError(f"{path} has no categories: {WHERE}")
    return dict(sorted(categories.items()))


def read_annotation(
    entry: dict[str, Any], categories: dict[int, str], pictures: dict[int, Picture], where: str
) -> dict[str, Any]:
    """The parts of an annotation that are used; segmentation may be None. Raises UserError that begins with `where`."""
    image, category, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
    if not whole(image) or image not in pictures:
        raise UserError(f"{where} names the image {short(image)}, which is not in the list `images`")
    if not whole(category) or category not in categories:
        raise UserError(f"{where} names the category {short(category)}, which is not in the list `categories`")
    if not numbers(box) or len(box) != 4:
        raise UserError(f"{where} needs a bbox of four numbers x, y, width, height, not {short(box)}")
    outline, area = entry.get("segmentation"), entry.get("area")
    if isinstance(outline, dict):
        size, counts = [pictures[image].height, pictures[image].width], outline.get("counts")
        counts = run_lengths(counts) if isinstance(counts, str) else counts
        if outline.get("size") != size:
            raise UserError(f"{where} has a mask of the size {short(outline.get('size'))}, but its image is {size}")
        sound = isinstance(counts, list) and all(whole(count) and count >= 0 for count in counts)
        if not sound or sum(counts or ()) != math.prod(size):  # pycocotools would read and write outside its memory
            raise UserError(f"{where} has a damaged mask: its run lengths do not sum to {size[0]} x {size[1]} pixels")
        outline = {"size": size, "counts": counts}
    elif outline:
        if not isinstance(outline, list) or not all(numbers(part) and len(part) % 2 == 0 for part in outline):
            raise UserError(f"{where}: segmentation is neither a list of polygons x, y, x, y, ... nor a mask")
        outline = [part for part in outline if len(part) >= 6]  # two points are no area
    return {
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "area": area if numbers([area], math.inf) else box[2] * box[3],
        "iscrowd": int(entry.get("iscrowd") == 1),
        "segmentation": outline or None,
    }


def run_lengths(text: str) -> list[int]:
    """COCO's compressed run lengths -> list of int. Numbers are in base 32 from chr(48) on, low digits first; bit 32
    marks that more digits follow, bit 16 of the last one a negative number. From the fourth on a number is the
    difference to the one two before."""
    counts: list[int] = []
    value, shift = 0, 0
    for digit in (ord(letter) - 48 for letter in text):
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            value -= (digit & 16 and 1) << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    return counts


def whole(value: Any) -> TypeGuard[int]:
    """Whether it is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)


def numbers(values: Any, limit: float = FAR) -> TypeGuard[list[float]]:
    """Whether it is a list of numbers below the limit; nan and infinity are not."""
    return isinstance(values, list) and all(type(value) in (int, float) and abs(value) < limit for value in values)


def short(value: Any) -> str:
    """A value as text for an error message."""
    text = repr(value)
    return text if len(text) < 80 else f"{text[:77]}..."


def clip(box: Sequence[float], picture: Picture) -> list[float]:
    """The part [x, y, w, h] of a box that lies in its picture; w or h may be 0 or less."""
    x, y, w, h = box
    left, top = max(x, 0), max(y, 0)
    return [left, top, min(x + w, picture.width) - left, min(y + h, picture.height) - top]


def draw_mask(annotation: dict[str, Any], picture: Picture) -> np.ndarray:
    """An annotation's mask, uint8 [height, width], 1 inside."""
    from pycocotools import mask  # here and below: only COCO data needs it

    shape = mask.frPyObjects(annotation["segmentation"], picture.height, picture.width)
    return mask.decode(mask.merge(shape) if isinstance(shape, list) else shape)  # a list: of polygons


def to_results(detections: dict[str, torch.Tensor], picture: Picture, frame: tuple[int, int]) -> list[dict[str, Any]]:
    """One picture's detections -> list of dicts as in COCO's result files, in the picture's own pixels.

    detections: boxes [n, 4], labels [n], scores [n] and perhaps masks [n, 1, h, w] from 0 to 1, on any device, in the
    pixels of `frame` = (h, w), the size in which the model saw the picture. The threshold for masks is 0.5.
    """
    from pycocotools import mask

    scale = torch.tensor([picture.width / frame[1], picture.height / frame[0]] * 2)
    x1, y1, x2, y2 = (detections["boxes"].float().cpu() * scale).unbind(1)
    boxes = torch.stack([x1, y1, x2 - x1, y2 - y1], dim=1).tolist()
    columns = zip(boxes, detections["labels"].tolist(), detections["scores"].tolist(), strict=True)
    results: list[dict[str, Any]] = [
        {"image_id": picture.id, "category_id": label, "bbox": [round(v, 2) for v in box], "score": round(score, 5)}
        for box, label, score in columns
    ]
    if "masks" in detections:
        size = picture.height, picture.width
        for result, one in zip(results, detections["masks"], strict=True):  # one by one: originals may be large
            inside = F.interpolate(one[None].float(), size, mode="bilinear")[0, 0] > 0.5
            lengths = mask.encode(np.asfortranarray(inside.byte().cpu().numpy()))
            result["segmentation"] = {"size": list(size), "counts": lengths["counts"].decode("ascii")}
    return results
