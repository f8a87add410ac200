"""Where things are: the COCO file that a folder holds, and the pictures that a COCO file names."""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import unquote

from data.pictures.split import SUFFIXES, RootError, picture_files, shown
from utils import UserError
from utils.notices import note_once

from .exports import foreign_file
from .format import WHERE, Picture

OTHERS = "--dataset=VOC reads XML files, YOLO text files"


def find_json(root: str | Path, split: str, kind: str = "instances") -> Path:
    """The COCO file that `root` names: the file itself, or in a folder the only annotations/<kind>_*<split>*.json, else
    the only JSON file of the folder and its annotations/. Raises UserError."""
    root = Path(root)
    if root.suffix.lower() == ".xml" and (known := foreign_file(root)):
        raise RootError(root, f"{root} is not COCO's, but {known}")
    if root.is_file():
        return root
    if not root.is_dir():
        raise RootError(root, f"there is no file {root}: {WHERE}")
    wanted = f"annotations/{kind}_*{split}*.json"
    found = sorted(root.glob(wanted)) or sorted([*root.glob("*.json"), *root.glob("annotations/*.json")])
    if len(found) > 1 and (known := foreign_file(found[0])):
        raise RootError(root, f"{found[0]} is not COCO's, but {known}")
    if len(found) != 1:
        below = sorted(root.glob("*/*.json"))
        names = f" ({', '.join(str(path.relative_to(root)) for path in found or below)})" if found or below else ""
        raise RootError(
            root, f"{root} holds {len(found) or 'no'} files {wanted} or *.json{names}: name the file; {OTHERS}"
        )
    return found[0]


def find_pictures(file: Path, pictures: Sequence[Picture]) -> list[Picture]:
    """The pictures of a COCO file with their full paths. Those of instances_train2017.json are in the first of these
    folders, relative to its own, that has any of them: ../images/train2017, ../train2017, ../images, the folder itself.
    Where no folder has any, they are found by the last parts of their names. Raises UserError."""
    base, name = file.absolute().parent, file.stem.rpartition("_")[2]
    folders = [base.parent / "images" / name, base.parent / name, base.parent / "images", base]
    for folder in folders:
        if any(spelled(folder, picture).is_file() for picture in pictures):
            return [picture._replace(path=spelled(folder, picture)) for picture in pictures]
    beside = base.parent if base.name.lower().startswith(("annot", "label")) else base
    found = by_last_parts(file, pictures, [beside, base.parent / "images"])
    if not any(found):
        example = f"{len(pictures)} are listed, the first is {pictures[0].path}"
        raise UserError(f"no picture of {file} was found ({example}); looked in {shown(folders)}, and below {beside}")
    known = [path for path in found if path]
    note_once(
        f"{file}: no picture is where its file_name says, {pictures[0].path}; {len(known)} of {len(found)} were found "
        f"by the end of it, {known[0]}"
    )
    return [
        picture._replace(path=path or folders[-1] / picture.path) for picture, path in zip(pictures, found, strict=True)
    ]


def spelled(folder: Path, picture: Picture) -> Path:
    """A picture's path in a folder. Where no file has the very name, backslashes divide folders and %20 is a space."""
    path, name = folder / picture.path, str(picture.path)
    if ("\\" in name or "%" in name) and not path.is_file():
        slashed = name.replace("\\", "/")
        others = [folder / other for other in (slashed, unquote(name), unquote(slashed))]
        return next((other for other in others if other.is_file()), path)
    return path


def by_last_parts(file: Path, pictures: Sequence[Picture], folders: Iterable[Path]) -> list[Path | None]:
    """The files below the folders whose paths end as the pictures' names do, with as many parts as possible; None where
    there is none. Raises UserError where two end alike, or where two pictures would have one file."""
    there: dict[str, set[Path]] = {}
    for path in (Path(top, name) for folder in folders for top, _, names in os.walk(folder) for name in names):
        if path.suffix.lower() in SUFFIXES:
            there.setdefault(parts(path.name)[0], set()).add(path)
    owners: dict[Path, Picture] = {}
    found: list[Path | None] = []
    for picture in pictures:
        wanted = parts(str(picture.path))
        alike = {path: len(os.path.commonprefix([wanted, parts(str(path))])) for path in there.get(wanted[0], ())}
        best = sorted(path for path, length in alike.items() if length == max(alike.values()))
        rival = best and owners.setdefault(best[0], picture)
        if len(best) > 1:
            raise UserError(f"{file}: the picture {picture.path} may be {best[0]} or {best[1]}: correct file_name")
        if best and rival is not picture:
            names = f"{rival.path} and {picture.path}"
            raise UserError(f"{file}: the pictures {names} may both be {best[0]}: correct file_name")
        found += best or [None]
    return found


def parts(name: str) -> list[str]:
    """The parts of a path as any system writes it, from the last to the first, for comparison: whatever the case, and
    however letters with marks are composed."""
    return unicodedata.normalize("NFC", unquote(name)).casefold().replace("\\", "/").split("/")[::-1]


def numbered(folder: str | Path) -> list[Picture]:
    """The Pictures of a folder, of unknown sizes. The id of 000000397133.jpg is its number; where a picture has another
    name, they are numbered from 1 in the order of their names. Raises RootError."""
    paths = picture_files(folder, "give a COCO file or a folder of pictures")
    numbers = all(re.fullmatch(r"\d{1,18}", path.stem) for path in paths)
    if not numbers:
        note_once(
            f"the pictures in {folder} are not all named by an id, 000000397133.jpg: their ids are 1, 2, ... by name"
        )
    ids = [int(path.stem) if numbers else number for number, path in enumerate(paths, start=1)]
    return [Picture(id, path, 0, 0, []) for id, path in zip(ids, paths, strict=True)]


def unique(groups: Iterable[list[Picture]]) -> list[Picture]:
    """Lists of Pictures -> one list. Raises UserError when two have the same id."""
    found: dict[int | str, Picture] = {}
    for picture in (picture for group in groups for picture in group):
        if found.setdefault(picture.id, picture) is not picture:
            raise UserError(f"{found[picture.id].path} and {picture.path} have the same image id, {picture.id}")
    return list(found.values())
