"""Which mask belongs to which picture, by the names of their folders and files."""

import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from utils import UserError
from utils.notices import note_once

from .mask_arrays import ARRAYS
from .split import SUFFIXES, RootError, as_folder, folder_files

WHERE = "give folders with the pictures in images/ and, for training, PNG files of the same names in masks/"
IMAGES = "images", "image", "imgs", "img", "JPEGImages", "leftImg8bit"  # folders, in any case
MASKS = "masks", "mask", "labels", "label", "annotations", "annotation", "SegmentationClass", "gtFine"
PART = re.compile(r"(mask|label|seg|segmentation|annotation|gt|label(train)?ids)s?", re.IGNORECASE)  # of a mask's name
AVOIDED = "instance", "vis|overlay", "colou?r"  # in a mask's ending: it is taken last, if there are others
SPLITS = "train", "training", "val", "validation", "test"  # folders
FEW = 50  # endings of one beginning; with more of them they are no endings
Files = TypeVar("Files")
Masks = dict[str, tuple[Path, ...]]  # of each name the file, or one file per object


def pairs(root: str | Path) -> tuple[dict[str, Path], Masks]:
    """({name: picture}, {name: its masks}) in one root; a name without a partner is in one of them only.

    The names are those of the files without suffix. Where no picture has a mask of its own name, masks in a folder of
    its name are one file per object, and else masks may have another ending or beginning: a note says which.

    Raises RootError when the folders are not clear, UserError when the endings are not, or two files have one name.
    """
    each = one_by_one(root)
    if each:
        pictures = {one.name: in_folder(one / "images")[0] for one in each}
        return pictures, {one.name: tuple(in_folder(one / "masks")) for one in each if (one / "masks").is_dir()}
    own, other = folders(root)
    files, masks = listed(root, own, other)
    pictures, found = by_name(files, own), {name: (path,) for name, path in by_name(masks, other).items()}
    if not pictures.keys() & found.keys():
        found = grouped(found, pictures)
    if not pictures.keys() & found.keys():
        pictures, found = bare(pictures), bare(found)
    if not pictures.keys() & found.keys():
        found = renamed(root, pictures, found)
    return pictures, found


def images_folders(root: str | Path) -> list[Path]:
    """The folders with the pictures of a root whose masks do not matter: images/ or one of another usual name, or the
    root itself. Raises RootError when there are several of those names."""
    each = [one / "images" for one in one_by_one(root)]
    return each or [(Path(root).is_dir() and subfolder(Path(root), IMAGES)) or Path(root)]


def one_by_one(root: str | Path) -> list[Path]:
    """The folders in a root with one picture each, x/images/y.png, and its masks in x/masks (Data Science Bowl 2018);
    none where the root is not of that kind."""
    if not Path(root).is_dir() or Path(root, "images").is_dir():
        return []
    found = [
        one for one in sorted(Path(root).iterdir()) if (one / "images").is_dir() and one.name.lower() not in SPLITS
    ]
    return found if all(len(in_folder(one / "images")) == 1 for one in found) else []


def folders(root: str | Path) -> tuple[Path, Path]:
    """The folders of a root's pictures and of its masks: in it, or beside it where it is images/ or images/train. They
    are the same where both lie together. Raises RootError."""
    folder = as_folder(root, WHERE)
    pictures, masks = subfolder(folder, IMAGES), subfolder(folder, MASKS) or subfolder(folder, MASKS, ARRAYS)
    if pictures and masks:
        return pictures, masks
    own = pictures or folder
    for base in [own, *own.parents][:3]:
        if base.name.lower() in map(str.lower, IMAGES):
            masks_too = subfolder(base.parent, MASKS)
            if masks_too and (masks_too / own.relative_to(base)).is_dir():
                return own, masks_too / own.relative_to(base)
    files = in_folder(own)
    if files and masks:
        return own, masks
    beside = next((path for path in named_after(own) if files), None)
    if beside:
        return own, beside
    if any(is_mask(path, own) for path in [*files, *own.glob("*/label.png")]):
        return own, own
    part, others = ("masks", MASKS[1:]) if pictures or files else ("images", IMAGES[1:])
    inside = [str(path) for path in sorted(folder.iterdir()) if path.is_dir() and subfolder(path, IMAGES)]
    hint = f" ({' or '.join(inside)} has one: give that)" if 0 < len(inside) < 5 else ""
    with contextlib.suppress(RootError):
        some = [path for path in sorted(folder.iterdir()) if path.is_dir() and not hint and in_folder(path)]
        paired = [str(path) for path in some if named_after(path)]
        hint = f" ({' or '.join(paired)} has its masks beside it: give that)" if 0 < len(paired) < 5 else hint
    raise RootError(root, f"{root} has no folder {part}{hint}: {WHERE}; other names are {', '.join(others)}")


def subfolder(folder: Path, names: tuple[str, ...], suffixes: set[str] = SUFFIXES) -> Path | None:
    """The folder within `folder` with the first of these names, else the only one with another of them, in any case,
    that holds pictures, or files with these suffixes. Raises RootError when there are several."""
    if (folder / names[0]).is_dir():
        return folder / names[0]
    wanted = [name.lower() for name in names]
    found = [path for path in sorted(folder.iterdir()) if path.name.lower() in wanted and path.is_dir()]
    found = [path for path in found if in_folder(path, suffixes) or deeper(path, suffixes)]
    if len(found) > 1:
        several = ", ".join(path.name for path in found)
        raise RootError(folder, f"{folder} has the folders {several}: rename the right one {names[0]}")
    return found[0] if found else None


def named_after(folder: Path) -> list[Path]:
    """The folder beside one of pictures that is named after it and holds masks: train_masks, trainannot beside train.
    Raises RootError when there are several."""
    name, wanted = folder.absolute().name.lower(), [*map(str.lower, MASKS), "annot"]
    beside = [path for path in sorted(folder.absolute().parent.iterdir()) if path.name.lower().startswith(name)]
    found = [path for path in beside if path.name[len(name) :].lower().strip("_-") in wanted and path.is_dir()]
    if len(found) > 1:
        raise RootError(folder, f"beside {folder} are {' and '.join(path.name for path in found)}: rename all but one")
    return found


def listed(root: str | Path, own: Path, other: Path) -> tuple[list[Path], list[Path]]:
    """The files in these two folders that may be pictures, and those that may be masks: of these PNG alone, if there is
    any. Raises RootError where they are in folders like train and val."""
    pictures = in_folder(own) or deeper(own)
    masks = next(
        filter(None, (listing(other, one) for one in (SUFFIXES, ARRAYS) for listing in (in_folder, deeper))), []
    )
    if own == other:
        masks = [path for path in [*pictures, *own.glob("*/label.png")] if is_mask(path, own)]
        pictures = [path for path in pictures if path not in set(masks)]
    for path in pictures:
        part, *below = path.relative_to(own).parts
        if below and part.lower() in SPLITS:
            raise RootError(root, f"{own} has no pictures, but {own / part} has: give that")
    return pictures, [path for path in masks if path.suffix.lower() == ".png"] or masks


def in_folder(folder: Path, suffixes: set[str] = SUFFIXES) -> list[Path]:
    """The pictures, or files with these suffixes, directly in a folder."""
    return [path for path in folder_files(folder, WHERE) if path.suffix.lower() in suffixes]


def deeper(folder: Path, suffixes: set[str] = SUFFIXES) -> list[Path]:
    """The same in its subfolders; of those of labelme (x_json/label.png beside img.png) the masks alone."""
    paths = [path for one in sorted(folder.rglob("*")) if one.is_dir() for path in in_folder(one, suffixes)]
    labelme = {path.parent for path in paths if path.name == "label.png"}
    return [path for path in paths if path.parent not in labelme or path.name == "label.png"]


def is_mask(path: Path, folder: Path) -> bool:
    """Whether a file in the folder of the pictures is a mask: x_mask.png, x_json/label.png."""
    words = re.split(r"[_\-. ]", path.stem)
    if path.parent != folder:
        return path.name == "label.png"
    return len(words) > 1 and any(map(PART.fullmatch, (words[0], words[-1])))


def by_name(paths: list[Path], folder: Path) -> dict[str, Path]:
    """{path relative to `folder` without suffix: path}. Raises UserError when two have the same."""
    found: dict[str, Path] = {}
    for path in paths:
        one = found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
        if one != path:
            raise UserError(f"{one} and {path} differ only in their suffix: rename or remove one of them")
    return found


def bare(files: dict[str, Files]) -> dict[str, Files]:
    """The same files by names without folder, where all are in one, as in annotations/trimaps; else unchanged."""
    one = len({name.rpartition("/")[0] for name in files}) == 1
    return {name.rpartition("/")[2]: found for name, found in files.items()} if one else files


def grouped(masks: Masks, pictures: Iterable[str]) -> Masks:
    """Masks in folders, by the folder's name: {"x/1": file, "x/2": file} -> {"x": both files}, where some are named
    like pictures or each has one file alone; else unchanged."""
    groups: dict[str, tuple[Path, ...]] = {}
    for name, files in masks.items():
        folder = name.rpartition("/")[0]
        groups[folder] = groups.get(folder, ()) + files
    alone = "" not in groups and all(files[0].name == "label.png" for files in groups.values())
    return groups if alone or any(name in groups for name in pictures) else masks


def renamed(root: str | Path, pictures: Iterable[str], masks: Masks) -> Masks:
    """The masks by the names of their pictures, where those end or begin otherwise: {"x_mask": files} -> {"x": files}.
    Raises UserError when the masks have several endings."""
    for parts, shown in ((endings, "{}{}"), (beginnings, "{1}{0}")):
        known: dict[str, dict[str, str]] = defaultdict(dict)  # {what both have: {the mask's ending: its name}}
        for name in masks:
            for stem, end in parts(name):
                known[stem][end] = name
        found = [(name, stem, end) for name in pictures for stem, end in parts(name) if stem in known]
        found = [(name, stem, end) for name, stem, end in found if len(known[stem]) <= FEW]
        votes = Counter((own, other) for _, stem, own in found for other in known[stem])
        best = [both for both, count in votes.items() if count == max(votes.values())]
        own = min((own for own, _ in best), key=len, default="")
        others = [other for one, other in best if one == own]
        for word in AVOIDED:
            others = [other for other in others if not re.search(word, other, re.IGNORECASE)] or others
        others = [other for other in others if other.lower().endswith("trainids")] or others
        if len(others) > 1:
            kinds = " or ".join(shown.format("x", other) for other in sorted(others))
            raise UserError(f"the masks in {root} are {kinds} for a picture {shown.format('x', own)}: leave one kind")
        if others:
            note_once(f"{root}: the mask of {shown.format('x', own)} is {shown.format('x', others[0])}")
            names = {known[stem].get(others[0], ""): name for name, stem, end in found if end == own}
            return {names.get(mask, mask): files for mask, files in masks.items()}
    return masks


def endings(name: str) -> Iterator[tuple[str, str]]:
    """(stem, ending) of a name, with each ending of words: x_leftImg8bit -> (x_leftImg8bit, ""), (x, _leftImg8bit)."""
    yield name, ""
    for word in reversed([*re.finditer(r"[_\-. ]+([^_\-. ]*)", name)]):
        if not word.start() or not re.fullmatch(r"[A-Za-z]+(\d+[A-Za-z]+)*", word[1]):
            return
        yield name[: word.start()], name[word.start() :]


def beginnings(name: str) -> Iterator[tuple[str, str]]:
    """(stem, beginning) of a name, with each beginning of words: img_1 -> (img_1, ""), (1, img_); img1 -> (1, img)."""
    yield name, ""
    words = re.match(r"[A-Za-z][A-Za-z_\-. ]*", name)
    for at in range(1, min(words.end() + 1, len(name)) if words else 0):
        if not name[at - 1].isalpha() or name[at].isdigit():
            yield name[at:], name[:at]
