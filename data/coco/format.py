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

from utils import UserError
from utils.notices import counted

from .values import as_id, as_number, as_numbers, in_order, short

HIGHEST_ID = 10_000  # of a category that is its own label: a model has an output for every label up to the highest
THIN = 0.01  # pixels; boxes that are not wider count as empty
NO_OUTLINE = "without an outline, used as mask; --masks=False trains MaskRCNN on boxes alone"
BEYOND = "larger than the picture, cut off; bbox is x, y, width, height, not x1, y1, x2, y2"
WHERE = "give a COCO file of annotations, say annotations/instances_train2017.json"


class Picture(NamedTuple):
    """One picture of a COCO file. Height and width are the original's, in pixels; 0 where they are not known yet."""

    id: int | str  # as the file has it
    path: Path
    height: int
    width: int
    annotations: list[dict[str, Any]]  # image_id, category_id, bbox [x, y, w, h], area, iscrowd, segmentation and, if
    # the file has them, keypoints [x, y, v, ...]
    turn: int = 1  # the EXIF orientation by which its pixels are turned to lie as the annotations do

    @property
    def name(self) -> str:
        """The file's name, which decides between train and val."""
        return self.path.name


class Content(NamedTuple):
    """What read_coco returns."""

    categories: dict[int | str, str]  # {id: name}; ids of a test file are as it has them, others as in as_id
    pictures: list[Picture]
    notes: list[str] = []  # what was left out, one line each
    crowds: list[str] = []  # the same about those that are not trained on, see crowd_notes
    groups: frozenset[int | str] = frozenset()  # categories without annotations that only group others
    points: tuple[Any, ...] = ()  # (names of the keypoints, skeleton: pairs of their numbers from 1) of categories


def read_coco(path: str | Path, labelled: bool = True) -> Content:
    """Read and check a COCO file. labelled=False: for a test file, only the pictures are read.

    A file is read only once, because the data sets of training and validation may share it; they never change it.
    Raises UserError, one line that names the file and the fault.
    """
    return _read_coco(Path(path), labelled, Path(path).stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read_coco(path: Path, labelled: bool, changed: int) -> Content:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({' '.join(str(error).split())}): {WHERE}") from None
    for name in ("images", "annotations", "categories") if labelled else ("images",):
        if not isinstance(content, dict) or not isinstance(content.get(name), list):
            raise UserError(f"{path} is no such COCO file, it has no list `{name}`: {WHERE}")
        if not all(isinstance(entry, dict) for entry in content[name]):
            raise UserError(f"{path}: an entry of `{name}` is not {{...}}: {WHERE}")
    pictures = read_pictures(path, content["images"])
    if not labelled:
        entries = [one for one in content.get("categories") or () if isinstance(one, dict)]
        named = {one["id"]: one.get("name") for one in entries if as_id(one.get("id")) is not None}
        return Content(named, list(pictures.values()))
    categories = read_categories(path, content["categories"])
    counts = {"without an area in the picture, left out": 0, NO_OUTLINE: 0, BEYOND: 0}
    objects, crowds, farthest = dict.fromkeys(categories, 0), dict.fromkeys(categories, 0), 0.0
    for number, entry in enumerate(content["annotations"]):
        where = f"{path}: annotation {entry.get('id', f'number {number}')}"
        annotation = read_annotation(entry, categories, pictures, where)
        if annotation["segmentation"] is None:
            annotation["segmentation"] = [outline_of(annotation["bbox"])]
            counts[NO_OUTLINE] += 1
        picture = pictures[as_id(annotation["image_id"])]
        (crowds if annotation["iscrowd"] else objects)[annotation["category_id"]] += 1
        corner = [annotation["bbox"][axis] + annotation["bbox"][axis + 2] for axis in (0, 1)]
        farthest = max(farthest, *corner)
        counts[BEYOND] += corner[0] > picture.width + 1 or corner[1] > picture.height + 1
        if min(clip(annotation["bbox"], picture)[2:]) > THIN:
            picture.annotations.append(annotation)
        else:
            counts["without an area in the picture, left out"] += 1
    if 0 < farthest <= 1:
        raise UserError(f"{path}: all boxes lie between 0 and 1: bbox is in pixels, not in shares of the picture")
    notes = [f"{path}: {counted(count, 'box', 'boxes')} {what}" for what, count in counts.items() if count]
    twice = len(pictures) - len({picture.path for picture in pictures.values()})
    if twice:
        notes.append(
            f"{path}: {counted(twice, 'image')} listed again under another id: each has some of the objects only"
        )
    parents = [one.get("supercategory") for one in content["categories"] if one.get("supercategory") != one["name"]]
    idle = [(id, name) for id, name in categories.items() if not objects[id] + crowds[id]]
    groups = {id for id, name in idle if name in [*parents, "_background_"]}
    named = [one for one in content["categories"] if isinstance(one.get("keypoints"), list) and one["keypoints"]]
    points = [(one["keypoints"], one.get("skeleton") or []) for one in named]
    few = crowd_notes(path, categories, objects, crowds)
    return Content(categories, list(pictures.values()), notes, few, frozenset(groups), tuple(points))


def crowd_notes(path: Path, categories: Any, objects: dict[Any, int], crowds: dict[Any, int]) -> list[str]:
    """What a user has to know about the crowds in a file, [] where it has none: how many there are, and which classes
    have nothing else. objects, crowds: {category id: number of annotations}."""
    count, alone = sum(crowds.values()), [categories[id] for id in crowds if crowds[id] and not objects[id]]
    if not count:
        return []
    share = f"{count} of {counted(count + sum(objects.values()), 'annotation')}"
    why = f": {', '.join(alone)} has no others" if alone else ""
    hint = "--crowds=objects if each is a single object"
    return [f"{path}: {share} are crowds (iscrowd 1), which are not trained on{why}; {hint}"]


def read_pictures(path: Path, entries: list[dict[str, Any]]) -> dict[Any, Picture]:
    """{as_id of its id: Picture without annotations}. Raises UserError."""
    pictures: dict[Any, Picture] = {}
    for number, entry in enumerate(entries):
        id, name, sides = as_id(entry.get("id")), entry.get("file_name"), ("height", "width")
        size = [as_number(entry.get(side)) for side in sides]
        sound = {"id": id is not None, "file_name": isinstance(name, str) and name != ""}
        sound |= {side: one is not None and one >= 1 and one == int(one) for side, one in zip(sides, size, strict=True)}
        for key in (key for key, fine in sound.items() if not fine):
            what = f"image {number} needs id, file_name, height and width, its {key} is {short(entry.get(key))}"
            raise UserError(f"{path}: {what}: {short(entry)}")
        if id in pictures:
            raise UserError(f"{path}: two images have the id {id}, {pictures[id].path} and {name}")
        pictures[id] = Picture(
            entry["id"] if isinstance(entry["id"], str) else id, Path(name), int(size[0]), int(size[1]), []
        )
    if not pictures:
        raise UserError(f"{path} lists no images: {WHERE}")
    return pictures


def read_categories(path: Path, entries: list[dict[str, Any]]) -> dict[Any, str]:
    """{as_id of its id: name}. Raises UserError."""
    categories: dict[Any, str] = {}
    for entry in entries:
        id, name = as_id(entry.get("id")), entry.get("name")
        name = str(name) if whole(name) else name
        if id is None or not isinstance(name, str) or not name:
            raise UserError(f"{path}: a category needs an id and a name, not {short(entry)}")
        if id in categories:
            raise UserError(f"{path}: two categories have the id {id}, {categories[id]} and {name}")
        categories[id] = name
    if not categories:
        raise UserError(f"{path} has no categories: {WHERE}")
    return dict(sorted(categories.items(), key=lambda one: in_order(one[0])))


def read_annotation(
    entry: dict[str, Any], categories: dict[Any, str], pictures: dict[Any, Picture], where: str
) -> dict[str, Any]:
    """The parts of an annotation that are used; segmentation may be None. Raises UserError that begins with `where`."""
    image, category, box = as_id(entry.get("image_id")), as_id(entry.get("category_id")), as_numbers(entry.get("bbox"))
    if image not in pictures:
        raise UserError(f"{where} names the image {short(entry.get('image_id'))}, which is not in the list `images`")
    if category not in categories:
        named = short(entry.get("category_id"))
        raise UserError(f"{where} names the category {named}, which is not in the list `categories`")
    if box is None or len(box) != 4:
        raise UserError(f"{where} needs a bbox of four numbers x, y, width, height, not {short(entry.get('bbox'))}")
    picture, outline, area = pictures[image], entry.get("segmentation"), as_number(entry.get("area"))
    if isinstance(outline, list) and len(outline) == 1 and isinstance(outline[0], dict):
        outline = outline[0]
    if isinstance(outline, dict):
        outline = read_run_lengths(outline, [picture.height, picture.width], where)
    elif outline:
        outline = [part for part in read_polygons(outline, where) if len(part) >= 6]  # two points are no area
    points = as_numbers(entry.get("keypoints") or [])
    if points is None or len(points) % 3:
        raise UserError(f"{where}: keypoints are no list x, y, visibility, ...: {short(entry['keypoints'])}")
    return {
        "image_id": picture.id,
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3] if area is None else area,
        "iscrowd": int(as_number(entry.get("iscrowd")) == 1 or entry.get("iscrowd") is True),
        "segmentation": outline or None,
    } | ({"keypoints": points} if points else {})


def read_run_lengths(outline: dict[str, Any], size: list[int], where: str) -> dict[str, Any]:
    """A mask {size: [height, width], counts: run lengths, compressed or not} -> the same, its counts a list. Raises
    UserError that begins with `where`."""
    counts = outline.get("counts")
    counts = run_lengths(counts) if isinstance(counts, str) else counts
    if as_numbers(outline.get("size")) != size:
        raise UserError(f"{where} has a mask of the size {short(outline.get('size'))}, but its image is {size}")
    sound = isinstance(counts, list) and all(whole(count) and count >= 0 for count in counts)
    if not sound or sum(counts or ()) != math.prod(size):  # pycocotools would read and write outside its memory
        raise UserError(f"{where} has a damaged mask: its run lengths do not sum to {size[0]} x {size[1]} pixels")
    return {"size": size, "counts": counts}


def read_polygons(outline: Any, where: str) -> list[list[float]]:
    """Polygons as a list of flat lists x, y, x, y, ...; `outline` may be one such list, and points may be pairs. Raises
    UserError that begins with `where`."""
    if is_points(outline) or as_numbers(outline):
        outline = [outline]
    parts = outline if isinstance(outline, list) else [None]
    polygons = [as_numbers(sum(part, []) if is_points(part) else part) for part in parts]
    if not all(one is not None and len(one) % 2 == 0 for one in polygons):
        raise UserError(f"{where}: segmentation is neither a list of polygons x, y, x, y, ... nor a mask")
    return [one for one in polygons if one]


def is_points(value: Any) -> bool:
    """Whether it is a list of at least three points, each a list of two numbers."""
    return isinstance(value, list) and len(value) > 2 and all(isinstance(one, list) and len(one) == 2 for one in value)


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


def outline_of(box: Sequence[float]) -> list[float]:
    """A box [x, y, w, h] as a polygon x, y, x, y, ..."""
    x, y, w, h = box
    return [x, y, x + w, y, x + w, y + h, x, y + h]


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

    detections: boxes [n, 4], labels [n], scores [n] and perhaps masks [n, 1, h, w] from 0 to 1 or keypoints [n, K, 3],
    on any device, in the pixels of `frame` = (h, w), the size in which the model saw the picture. The threshold for
    masks is 0.5.
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
    points = detections.get("keypoints", torch.zeros(0)).float().cpu()
    for result, one in zip(results, points, strict=False):  # none from a model without them
        result["keypoints"] = (one * torch.tensor([scale[0], scale[1], 1])).flatten().tolist()
    if "masks" in detections:
        size = picture.height, picture.width
        for result, one in zip(results, detections["masks"], strict=True):  # one by one: originals may be large
            inside = F.interpolate(one[None].float(), size, mode="bilinear")[0, 0] > 0.5
            lengths = mask.encode(np.asfortranarray(inside.byte().cpu().numpy()))
            result["segmentation"] = {"size": list(size), "counts": lengths["counts"].decode("ascii")}
    return results
