"""Which colour or number of a mask is which class: files beside a data set, and the tables of two well-known ones."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils import UserError
from utils.metrics.iou_meter import UNLABELLED
from utils.notices import note_once

from .split import read_lines

# PASCAL VOC's colours: the bits of the class, lowest first, set those of red, green and blue in turn, highest first.
PALETTE = np.array(
    [
        [sum((i >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
        for i in range(256)
    ],
    dtype=np.uint8,
)
# Files of that kind: hearth's own, CamVid's (SegNet, Kaggle) and CVAT's; each line names a colour.
FILES = "colors.txt", "label_colors.txt", "class_dict.csv", "labelmap.txt"
IGNORED = "void", "ignore", "ignored", "unlabelled", "unlabeled"
# The classes of PASCAL VOC 2012 in order, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/
VOC = (
    "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person "
    "pottedplant sheep sofa train tvmonitor"
).split()
# The labels of Cityscapes: id, red, green, blue, name; * marks the 19 that are evaluated, in the order of their train
# ids. From labels.py of https://github.com/mcordts/cityscapesScripts
CITYSCAPES = """
0 0 0 0 unlabeled, 1 0 0 0 ego vehicle, 2 0 0 0 rectification border, 3 0 0 0 out of roi, 4 0 0 0 static,
5 111 74 0 dynamic, 6 81 0 81 ground, 7 128 64 128 *road, 8 244 35 232 *sidewalk, 9 250 170 160 parking,
10 230 150 140 rail track, 11 70 70 70 *building, 12 102 102 156 *wall, 13 190 153 153 *fence,
14 180 165 180 guard rail, 15 150 100 100 bridge, 16 150 120 90 tunnel, 17 153 153 153 *pole, 18 153 153 153 polegroup,
19 250 170 30 *traffic light, 20 220 220 0 *traffic sign, 21 107 142 35 *vegetation, 22 152 251 152 *terrain,
23 70 130 180 *sky, 24 220 20 60 *person,
25 255 0 0 *rider, 26 0 0 142 *car, 27 0 0 70 *truck, 28 0 60 100 *bus, 29 0 0 90 caravan, 30 0 0 110 trailer,
31 0 80 100 *train, 32 0 0 230 *motorcycle, 33 119 11 32 *bicycle
"""
Row = tuple[int, str]  # a colour as one number (see `packed`), or a pixel's value; the name of its class


def packed(colors: Any) -> Any:
    """RGB colours, integers [..., 3] -> one number each, integers [...]."""
    red, green, blue = np.moveaxis(np.asarray(colors, dtype=np.int64), -1, 0)
    return (red << 16) + (green << 8) + blue


def shown_color(color: int) -> str:
    """A packed colour as it is written, "128 0 0"."""
    return f"{color >> 16} {color >> 8 & 255} {color & 255}"


def cityscapes() -> list[tuple[int, int, str, bool]]:
    """The labels of Cityscapes: (id, packed colour, name, whether it is evaluated)."""
    rows = [entry.split(maxsplit=4) for entry in CITYSCAPES.replace("\n", " ").strip().split(", ")]
    return [(int(id), packed([*map(int, color)]), name.lstrip("*"), name[0] == "*") for id, *color, name in rows]


def own_table(root: str | Path) -> tuple[Path, list[Row]] | None:
    """(file, its rows) of the first of FILES in a folder or the one above, or None. Raises UserError for a line that is
    no colour with a name, or may be read in two ways, and for a colour that is there twice."""
    folders = Path(root), Path(root).absolute().parent
    path = next((path for folder in folders for name in FILES if (path := folder / name).is_file()), None)
    if path is None:
        return None
    rows: dict[int, str] = {}
    for line in map(str.strip, read_lines(path)):
        found: list[Any] = [re.fullmatch(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,:]+(\S.*?)[\s,:]*", line)]
        found += [re.fullmatch(r"(.*?\S)[\s,:]+(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,:]*", line)]
        if not any(found):
            if line and not line.startswith("#") and (rows or path.suffix != ".csv"):  # a CSV has a header
                raise UserError(f"{path} has the line {line}: lines `red green blue name`, 0 to 255, are needed")
            continue
        if all(found):
            raise UserError(f"{path} has the line {line}, whose name may be its first or last number: name it by words")
        *color, name = found[0].groups() if found[0] else (*found[1].groups()[1:], found[1][1])
        if max(map(int, color)) > 255:
            raise UserError(f"{path} has the line {line}: red, green and blue are 0 to 255")
        if rows.setdefault(packed([*map(int, color)]), name) != name:
            raise UserError(f"{path} gives {' '.join(color)} two names: a colour has one")
    if not rows:
        raise UserError(f"{path} is empty: lines `red green blue name` are needed")
    return path, list(rows.items())


def known_table(colors: set[int], names: Sequence[str] | None) -> tuple[str, list[str], list[Row]] | None:
    """(what it is called, classes, rows) of the table of PASCAL VOC or Cityscapes that has all these packed colours, or
    None. The classes are `names`, those of a class_name.txt, if there are any; VOC's colours are theirs in order."""
    voc = list(zip(packed(PALETTE).tolist(), names or VOC, strict=False)) + [(packed([224, 224, 192]), "void")]
    city = {color: name for _, color, name, _ in reversed(cityscapes())}  # of one colour the first
    evaluated = [name for *_, name, counts in cityscapes() if counts]
    tables = (("PASCAL VOC", names or VOC, voc), ("Cityscapes", names or evaluated, list(city.items())))
    return next(((what, [*own], rows) for what, own, rows in tables if colors <= {color for color, _ in rows}), None)


def to_classes(rows: list[Row], names: Sequence[str] | None, where: str) -> tuple[list[str], dict[int, int]]:
    """(classes, {colour or value: class, or 255}). The classes are `names`, or where there are none those of the rows
    in their order; rows of other names, and without `names` those called void and the like, are ignored: a note names
    them. Raises UserError when the names have none of the rows."""
    listed = list(dict.fromkeys(name for _, name in rows))
    classes = list(names or [name for name in listed if name.lower() not in IGNORED])
    if not {*classes} & {*listed}:
        raise UserError(f"class_name.txt has none of the names of {where} ({', '.join(listed)}): take those")
    ignored = [name for name in listed if name not in classes]
    if ignored:
        some = ", ".join(ignored[:5]) + (f" and {len(ignored) - 5} more" if len(ignored) > 5 else "")
        note_once(f"{where}: pixels of {some} are ignored; class_name.txt can list other classes")
    return classes, {key: index_of(name, classes) for key, name in rows}


def index_of(name: str, classes: list[str]) -> int:
    """The class of this name, or 255."""
    return classes.index(name) if name in classes else UNLABELLED


def without_void(names: list[str] | None) -> list[str] | None:
    """The names without the last ones that are called void or the like, whose pixels are ignored."""
    kept = list(names or ())
    while kept and kept[-1].lower() in IGNORED:
        kept.pop()
    return names and kept
