"""YOLO: a text file for every picture, a line for each object: its class and its box as shares of the picture."""

import math
from pathlib import Path
from typing import Any

from utils import UserError
from utils.notices import counted, note_once

from .coco.box_files import BoxFiles, Parts, from_box, note_boxes, pictures_of
from .coco.format import THIN, Picture, clip
from .coco.values import as_number, short
from .pictures.split import RootError, picture_files, read_lines

WHERE = "give data.yaml, or a folder with images/ and labels/, or with pictures and their .txt files beside each other"
NAMES = "class_name.txt", "classes.txt", "obj.names"  # a name per line
PARTS = {"train": ("train",), "val": ("val", "valid")}  # as keys of data.yaml, and as folders
LOOSE = 0.01  # how far a share may be beyond 0 or 1 by rounding


class YOLO(BoxFiles):
    """Pictures in images/ and text files of the same stem in labels/, or beside each other. See CocoMask.

    A root is data.yaml or a folder with it, whose `train` and `val` divide it; or a folder with images/ and labels/,
    which may have train/ and val/; or the folder with the pictures itself. Lines are `class x y width height`, the
    box's centre and size, or `class x y x y x y ...`, a polygon; all are shares of the upright picture, from 0 to 1.
    Where data.yaml has kpt_shape, points follow the box; they are ignored. A picture without a file, or with an empty
    one, has no objects. Classes are numbers from 0, and have the names of data.yaml, or else of class_name.txt,
    classes.txt or obj.names in one of the folders; label 1 is class 0.

    Raises UserError that names the text file and its line.
    """

    upright = True

    def read(self, root: Path) -> Parts:
        """See BoxFiles."""
        files = divided(root)
        paths = [path for group in files.values() for path in group]
        labels = [label_file(path) for path in paths]
        without = sum(not file.is_file() for file in labels)
        if without == len(labels):
            raise RootError(root, f"no picture of {root} has a text file, the first would have {labels[0]}: {WHERE}")
        if without:
            note_once(f"{counted(without, 'picture')} of {root} without a text file: there are no objects in them")
        points = math.prod(settings_of(root).get("kpt_shape") or [0])
        found = {
            part: [Picture(str(path), path, 0, 0, read_labels(label_file(path), path, points)) for path in group]
            for part, group in files.items()
        }
        boxes = [one for group in found.values() for picture in group for one in picture.annotations]
        note_boxes(root, sum(not has_area(one["bbox"]) for one in boxes), sum(one["plain"] for one in boxes))
        return found

    def names(self, root: Path, used: set[Any]) -> dict[Any, str]:
        """See BoxFiles."""
        pictures = next(path for group in divided(root).values() for path in group).parent
        home = root.parent if root.is_file() else root
        for folder in (
            home,
            pictures,
            label_file(pictures / "_").parent,
            home.absolute().parent,
            pictures.parent.parent,
        ):
            names = settings_of(folder if folder != home else root).get("names")
            if names:
                return {id: str(names[id]) for id in (sorted(names) if isinstance(names, dict) else range(len(names)))}
            for file in (folder / name for name in NAMES if (folder / name).is_file()):
                return dict(enumerate(line.strip() for line in read_lines(file) if line.strip()))
        note_once(f"neither data.yaml nor {' nor '.join(NAMES)} names the classes of {root}: they are numbers")
        return {id: f"class {id}" for id in range(max(used, default=0) + 1)}

    def folder(self, root: Path) -> Path:
        """See BoxFiles."""
        settings = settings_of(root)
        entry = settings.get("test") or settings.get("val")
        return pictures_of(place_of(root, settings, str(entry)) if entry else root)

    def scaled(self, picture: Picture) -> Picture:
        """See CocoMask."""
        size = picture.width, picture.height
        boxes = [(one, [side * size[axis % 2] for axis, side in enumerate(one["bbox"])]) for one in picture.annotations]
        annotations = [
            {
                **one,
                "bbox": box,
                "area": box[2] * box[3],
                "segmentation": [[x * size[axis % 2] for axis, x in enumerate(part)] for part in one["segmentation"]],
            }
            for one, box in boxes
            if min(clip(box, picture)[2:]) > THIN
        ]
        return picture._replace(annotations=annotations)


def settings_of(root: Path) -> dict[str, Any]:
    """The content of the data.yaml that a root is or has, {} where it has none. Raises UserError."""
    import yaml

    file = root / "data.yaml" if root.is_dir() else root
    if not file.is_file():
        return {}
    try:
        content = yaml.safe_load("\n".join(read_lines(file)))
    except yaml.YAMLError as error:
        raise UserError(f"{file} cannot be read as YAML ({' '.join(str(error).split())}): {WHERE}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} has no settings of the kind `names: [bolt, nut]`: {WHERE}")
    names, points = content.get("names") or [], content.get("kpt_shape") or [0]
    numbered = isinstance(names, list) or (isinstance(names, dict) and all(type(id) is int for id in names))
    if not numbered or not all(type(number) is int for number in (points if isinstance(points, list) else [None])):
        raise UserError(f"{file}: write names as `[bolt, nut]` or `0: bolt`, kpt_shape as `[17, 3]`: {short(content)}")
    return content


def divided(root: Path) -> dict[str, list[Path]]:
    """The pictures of a root: of train and of val if it is divided into them, else {"": all}. Raises UserError."""
    if not root.exists():
        raise RootError(root, f"there is no folder {root}: {WHERE}")
    settings, base = settings_of(root), pictures_of(root)
    entries = {part: next((settings[key] for key in keys if settings.get(key)), None) for part, keys in PARTS.items()}
    folders = {part: next((base / key for key in keys if (base / key).is_dir()), None) for part, keys in PARTS.items()}
    if entries["train"]:
        found = {part: listed_pictures(root, settings, entry) for part, entry in entries.items() if entry}
    elif all(folders.values()):
        found = {part: picture_files(pictures_of(folder), WHERE) for part, folder in folders.items() if folder}
    else:
        found = {"": picture_files(base, WHERE)}
    if len(found) == 2:
        note_once(f"{root} is divided into train and val; give a folder of pictures to take another part")
        return found
    return {"": next(iter(found.values()))}


def listed_pictures(root: Path, settings: dict[str, Any], entry: Any) -> list[Path]:
    """The pictures that an entry of data.yaml names: a folder, a list of paths in a text file, or several of them."""
    found: list[Path] = []
    for one in entry if isinstance(entry, list) else [entry]:
        path = place_of(root, settings, str(one))
        lines = [line.strip() for line in read_lines(path) if line.strip()] if path.is_file() else []
        found += [path.parent / line for line in lines] or picture_files(pictures_of(path), WHERE)
    return found


def place_of(root: Path, settings: dict[str, Any], entry: str) -> Path:
    """Where an entry of data.yaml is, relative to its `path` or folder, or with a ../ too many. Raises UserError."""
    home = root if root.is_dir() else root.parent
    tops = [home / str(settings.get("path") or ""), Path(str(settings.get("path") or ".")), home]
    places = [top / entry for top in tops] + [home / entry.removeprefix("../")]
    found = next((place for place in places if place.exists()), None)
    if not found:
        raise RootError(
            root, f"data.yaml of {home} names {entry}, which is neither {places[0]} nor {places[-1]}: correct it"
        )
    return found


def label_file(path: Path) -> Path:
    """The text file of a picture: that of its path with labels for the last images, if there is such a folder."""
    parts = path.absolute().parts
    if "images" in parts[:-1]:
        last = len(parts) - 1 - parts[::-1].index("images")
        file = Path(*parts[:last], "labels", *parts[last + 1 :])
        if file.parent.is_dir():
            return file.with_suffix(".txt")
    return path.with_suffix(".txt")


def read_labels(file: Path, path: Path, points: int) -> list[dict[str, Any]]:
    """The annotations of a picture, in shares of it; [] where it has no text file. points: how many numbers of points
    follow a box. Raises UserError."""
    lines = read_lines(file) if file.is_file() else []
    return [read_line(line, f"{file}:{n}", path, points) for n, line in enumerate(lines, start=1) if line.strip()]


def read_line(line: str, where: str, path: Path, points: int) -> dict[str, Any]:
    """The annotation of a line. Raises UserError that begins with `where`."""
    numbers = [as_number(word) for word in line.split()]
    values = [value for value in numbers if value is not None]
    if len(values) < len(numbers) or values[0] < 0 or values[0] != int(values[0]):
        raise UserError(
            f"{where}: a line is a class number from 0 and shares of the picture, not {short(line.strip())}"
        )
    category, shares = int(values[0]), values[1:]
    if points and len(shares) == 4 + points:
        shares = shares[:4]
    outline = [shares] if len(shares) > 5 and len(shares) % 2 == 0 else []
    if len(shares) != 4 and not outline:
        kinds = "4 for a box (x, y, width, height) or 6, 8, ... for a polygon"
        raise UserError(
            f"{where}: {len(shares)} numbers follow the class, and {kinds} are needed: {short(line.strip())}"
        )
    if min(shares) < -LOOSE or max(shares) > 1 + LOOSE:
        raise UserError(f"{where}: numbers are shares of the picture, from 0 to 1, not pixels: {short(line.strip())}")
    x, y, w, h = shares[:4]
    box = [x - w / 2, y - h / 2, w, h]
    if outline:
        box = [min(shares[::2]), min(shares[1::2])]
        box += [max(shares[::2]) - box[0], max(shares[1::2]) - box[1]]
    return {**from_box(path, where, category, box, outline=outline), "plain": not outline}


def has_area(box: list[float]) -> bool:
    """Whether a box in shares of the picture has width and height."""
    return min(box[2:]) > 0
