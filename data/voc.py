"""PASCAL VOC: an XML file for every picture names the objects in it, http://host.robots.ox.ac.uk/pascal/VOC"""

from pathlib import Path
from typing import Any
from xml.parsers import expat

from utils import UserError
from utils.notices import counted, note_once

from .coco.box_files import BoxFiles, Parts, from_box, note_boxes, pictures_of
from .coco.format import THIN, Picture, clip
from .coco.values import FAR, as_number, short
from .pictures.split import SUFFIXES, RootError, class_names, read_lines

WHERE = "give a folder with Annotations/ and JPEGImages/, or with pictures and their XML files beside each other"
CORNERS = "xmin", "ymin", "xmax", "ymax"


class VOC(BoxFiles):
    """Pictures in JPEGImages/ and XML files of the same stem in Annotations/, or all in one folder. See CocoMask.

    A root is that folder, or a list of stems such as ImageSets/Main/trainval.txt in it. Where a folder has the lists
    train.txt and val.txt in ImageSets/Main, they divide it. The classes are the names in the XML files of the training
    data, in alphabetical order; class_name.txt in the first root, a name per line, fixes them and their order. Boxes
    are VOC's: the first pixel is 1, and xmax and ymax belong to the box. Difficult objects are not trained on; in
    validation, detections of them are neither right nor wrong. Pictures without an XML file are ignored with a note.

    Raises UserError that names the XML file and its line.
    """

    def read(self, root: Path) -> Parts:
        """See BoxFiles."""
        folder = home(root)
        by_stem = read_folder(folder, self.crowds)
        if root.is_file():
            return {"": chosen(root, by_stem)}
        lists = {part: folder / "ImageSets" / "Main" / f"{part}.txt" for part in ("train", "val")}
        if not all(path.is_file() for path in lists.values()):
            return {"": list(by_stem.values())}
        note_once(f"{root} is divided by ImageSets/Main/train.txt and val.txt; give another list instead of the folder")
        return {part: chosen(path, by_stem) for part, path in lists.items()}

    def names(self, root: Path, used: set[Any]) -> dict[Any, str]:
        """See BoxFiles."""
        names = class_names(home(root)) or sorted(used)
        return dict(zip(names, names, strict=True))

    def folder(self, root: Path) -> Path:
        """See BoxFiles."""
        if root.is_file():
            raise RootError(root, f"{root} is a list, and test needs a folder: give {pictures_of(home(root))}")
        return pictures_of(home(root))


class Element:
    """An element of an XML file: its name, its line, its text and the elements in it."""

    def __init__(self, name: str, line: int):
        self.name, self.line, self.text = name, line, ""
        self.parts: list[Element] = []

    def get(self, name: str) -> str:
        """The text of the first element in it with this name, "" where there is none."""
        return next((part.text.strip() for part in self.parts if part.name == name), "")


def read_xml(path: Path) -> Element:
    """The outermost element of an XML file. Entities are refused: a few of them can fill the memory, or name other
    files. Raises UserError."""
    parser, whole = expat.ParserCreate(), Element("", 0)
    inside = [whole]

    def start(name: str, attributes: Any) -> None:
        inside.append(Element(name, parser.CurrentLineNumber))
        inside[-2].parts.append(inside[-1])

    def text(data: str) -> None:
        inside[-1].text += data

    def refuse(name: str, *_: Any) -> None:
        raise UserError(f"{path}:{parser.CurrentLineNumber}: it declares the entity {name}: remove its DOCTYPE")

    parser.StartElementHandler, parser.CharacterDataHandler, parser.EntityDeclHandler = start, text, refuse
    parser.EndElementHandler = lambda name: inside.pop()
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        why = expat.errors.messages[error.code]
        raise UserError(f"{path}:{error.lineno}: no sound XML ({why}): write it again, or remove it") from None
    except (OSError, ValueError, LookupError) as error:  # an encoding that expat cannot read
        raise UserError(f"{path} cannot be read ({error}): save it as UTF-8") from None
    return whole.parts[0]


def home(root: Path) -> Path:
    """The folder that has all of a data set. Raises RootError."""
    if root.is_file():
        return root.parents[2] if root.absolute().parents[1].name == "ImageSets" else root.parent
    if not root.is_dir():
        raise RootError(root, f"there is no folder {root}: {WHERE}")
    return root.parent if root.name in ("Annotations", "JPEGImages") else root


def chosen(file: Path, by_stem: dict[str, Picture]) -> list[Picture]:
    """The Pictures that a list names, a stem per line. Raises UserError."""
    lines = [(number, line.strip()) for number, line in enumerate(read_lines(file), start=1) if line.strip()]
    for number, name in lines:
        if name not in by_stem:
            raise UserError(f"{file}:{number}: there is no XML file of {name}: a line is the stem of one")
    return [by_stem[name] for _, name in lines]


def read_folder(folder: Path, crowds: str) -> dict[str, Picture]:
    """{stem of the XML file: Picture} for all XML files of a folder, in the order of their names. crowds: see CocoMask.
    Raises UserError."""
    beside = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    files = sorted(path for path in beside.glob("*.[xX][mM][lL]") if not path.name.startswith("."))
    if not files:
        raise RootError(folder, f"there is no XML file in {beside}: {WHERE}")
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(pictures_of(folder).iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            by_stem.setdefault(path.stem, []).append(path)
    found = {file.stem: read_picture_file(file, by_stem, pictures_of(folder)) for file in files}
    alone = len({path for paths in by_stem.values() for path in paths} - {picture.path for picture in found.values()})
    if alone:
        note_once(f"ignoring {counted(alone, 'picture')} of {pictures_of(folder)} without an XML file in {beside}")
    boxes = [one for picture in found.values() for one in picture.annotations]
    kept = {stem: picture._replace(annotations=visible(picture)) for stem, picture in found.items()}
    left = sum(len(picture.annotations) for picture in kept.values())
    note_boxes(folder, len(boxes) - left, left)
    hard = sum(one["difficult"] for one in boxes)
    if hard and crowds == "ignore":
        share = f"{folder}: {hard} of {counted(len(boxes), 'object')} are difficult"
        note_once(f"{share}, and are not trained on; --crowds=objects takes them")
    return kept


def visible(picture: Picture) -> list[dict[str, Any]]:
    """The annotations of a Picture whose boxes have an area in it, as far as its size is known."""
    frame = picture if picture.height else picture._replace(height=FAR, width=FAR)
    return [one for one in picture.annotations if min(clip(one["bbox"], frame)[2:]) > THIN]


def read_picture_file(file: Path, by_stem: dict[str, list[Path]], folder: Path) -> Picture:
    """The Picture of an XML file: the one with its stem, else that of its <filename>. Raises UserError."""
    whole = read_xml(file)
    if whole.name != "annotation":
        raise UserError(f"{file}:{whole.line}: it begins with <{whole.name}>, not <annotation>: {WHERE}")
    name = whole.get("filename").replace("\\", "/").rpartition("/")[2]
    alike = by_stem.get(file.stem) or by_stem.get(Path(name).stem) or [folder / (name or f"{file.stem}.jpg")]
    exact = [path for path in alike if path.name == name] or alike
    if len(exact) > 1:
        raise UserError(f"{file} may be about {exact[0]} or {exact[1]}: write one of the names into <filename>")
    size = next((part for part in whole.parts if part.name == "size"), whole)
    height, width = (int(as_number(size.get(side)) or 0) for side in ("height", "width"))
    objects = [read_object(one, file, exact[0]) for one in whole.parts if one.name == "object"]
    known = height > 0 and width > 0  # some tools write 0
    return Picture(str(exact[0]), exact[0], height * known, width * known, objects)


def read_object(one: Element, file: Path, path: Path) -> dict[str, Any]:
    """The annotation of an <object>. Raises UserError."""
    where, name = f"{file}:{one.line}", one.get("name")
    if not name:
        raise UserError(f"{where}: the object has no name")
    box = next((part for part in one.parts if part.name == "bndbox"), Element("bndbox", one.line))
    corners = [as_number(box.get(corner)) for corner in CORNERS]
    if any(corner is None or abs(corner) >= FAR for corner in corners):
        got = {corner: box.get(corner) for corner in CORNERS}
        raise UserError(
            f"{file}:{box.line}: {name} needs a bndbox of four numbers xmin, ymin, xmax, ymax, not {short(got)}"
        )
    x1, y1, x2, y2 = (float(corner or 0) for corner in corners)
    sides = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
    return from_box(path, where, name, sides, int(as_number(one.get("difficult")) == 1))
