"""Any folder of pictures: a subfolder per class."""

import mimetypes
import os
import re
import shlex
from pathlib import Path

from utils import UserError
from utils.notices import counted, note_once

from .pictures.files import PictureFiles
from .pictures.read import can_be_opened
from .pictures.split import SUFFIXES, RootError, Roots, Sample, as_folder, as_list, class_names, hidden, shown

WANTED = "give a folder of pictures"
PARTS = {  # words in the names of folders for a part of the data
    "train": {"train", "training", "trn"},
    "val": {"val", "valid", "validation", "dev", "holdout"},
    "test": {"test", "testing", "eval", "evaluation", "tst"},
    "unlabelled": {"unsup", "unsupervised", "unlabeled", "unlabelled"},  # nothing reads it
}


class ImageFolder(PictureFiles):
    """Pictures in one subfolder per class, at any depth in it; in test mode anywhere in the folder.

    The classes are the subfolders in alphabetical order. A file class_name.txt, a name per line, in the first root that
    has one, fixes them and their order instead. Hidden files and files without a picture's suffix are ignored. Folders
    for train, val and test are none of classes. The id in test mode is the path from the root, with forward slashes.
    `root` is one folder, or a list of them that count as one. See PictureFiles for the split and the arguments.
    """

    def labelled(self, roots: Roots, root: Roots) -> list[Sample]:
        """The Samples in the folders `roots`, with the classes of `root`."""
        folders = class_folders(root)
        listed = next(filter(None, map(class_names, as_list(root))), None)
        self.classes = pick_classes(folders, listed, root)
        inside = folders if roots is root else class_folders(roots)
        unknown = [name for name in inside if inside[name] and name not in self.classes]
        if unknown and listed is None:
            raise UserError(f"{shown(roots)} has a folder {unknown[0]}, and {shown(root)} has no such class: rename it")
        if unknown:
            note_once(f"ignoring folders that class_name.txt does not list: {', '.join(unknown)}")
        return [
            sample._replace(target=label) for label, name in enumerate(self.classes) for sample in inside.get(name, ())
        ]

    def unlabelled(self, root: Roots) -> list[Sample]:
        """The Samples of test mode: all pictures in the folders."""
        found = [pictures_in(folder) for folder in as_list(root)]
        samples, others = [sample for some, _ in found for sample in some], sum(ignored for _, ignored in found)
        if not samples:
            files = counted(others, "other file")
            raise RootError(as_list(root)[0], f"no picture in {shown(root)} ({files}): {WANTED}")
        if others:
            note_once(f"ignoring {counted(others, 'file')} in {shown(root)} without a picture's suffix")
        return samples


def class_folders(roots: Roots) -> dict[str, list[Sample]]:
    """{subfolder: the pictures in it, as Samples} of these roots, in alphabetical order.

    A note counts the files that are ignored. Raises UserError for a root without subfolders, or with folders for parts
    of the data, see refuse_parts.
    """
    found: dict[str, list[Sample]] = {}
    others = 0
    for root in map(Path, as_list(roots)):
        pictures, ignored = pictures_in(root)
        inside = folders_in(root)
        loose = [picture for picture in pictures if picture.path.parent == root]
        if not inside and loose:
            raise UserError(
                f"{root} has {counted(len(loose), 'picture')} but no subfolders: make one for each class, or name them "
                "in a text file for --dataset=ListFile; cat.0.jpg, dog.0.jpg, ... are for --dataset=DogCat"
            )
        if not inside:
            raise RootError(root, f"{root} has no subfolders: one with pictures for each class is needed")
        refuse_parts(root, inside)
        found = {name: [] for name in inside} | found
        for picture in pictures:
            if picture.path.parent != root:
                found[picture.name.partition("/")[0]].append(picture)
        others += ignored + len(loose)
    if others:
        files = counted(others, "file")
        note_once(f"ignoring {files} in {shown(roots)}, without a picture's suffix or in no class's folder")
    return {name: found[name] for name in sorted(found, key=alphabetical)}


def refuse_parts(root: Path, inside: list[str]) -> None:
    """Raise UserError when the subfolders `inside` are for training and validation or test, rather than for classes,
    unless class_name.txt lists them: `train` alone, beside bus and tram, is a class."""
    words = {name: set(re.findall("[a-z]+", name.lower())) for name in sorted(inside, key=alphabetical)}
    parts = {part: [name for name in words if words[name] & known] for part, known in PARTS.items()}
    alone = not parts["val"] + parts["test"] + parts["unlabelled"] and len(inside) > 1
    if not parts["train"] or alone or set(parts["train"]) & set(class_names(root) or ()):
        return
    if not parts["val"] and any(folders_in(root / name) for name in parts["test"]):  # of classes: it can validate
        parts["val"], parts["test"] = parts["test"], []
    roots = {part: ",".join(str(root / name) for name in parts[part]) for part in ("train", "val", "test")}
    given = " ".join(f"--{part}-data-root={shlex.quote(path)}" for part, path in roots.items() if path)
    raise UserError(
        f"{root} has folders for parts of the data ({', '.join(name for names in parts.values() for name in names)}), "
        f"not for classes: give {given} (if they are classes, list them in class_name.txt there)"
    )


def pick_classes(folders: dict[str, list[Sample]], listed: list[str] | None, root: Roots) -> list[str]:
    """The names of the classes: those listed, or without a list the subfolders with pictures. Raises UserError."""
    empty = [name for name, pictures in folders.items() if not pictures]
    for name in listed or ():
        if name not in folders:
            raise UserError(
                f"class_name.txt lists {name}, but {shown(root)} has no folder {name}: make it or fix the list"
            )
        if name in empty:
            raise UserError(f"class_name.txt lists {name}, but its folder in {shown(root)} has no pictures: add some")
    strange = [] if listed else [one for folder in as_list(root) for name in empty for one in disguised(folder, name)]
    if strange:
        raise UserError(
            f"{strange[0].parent} has no file with a picture's suffix, but {strange[0].name} seems to be a picture: "
            "convert or rename such files, or move the folder elsewhere"
        )
    if empty:
        note_once(f"ignoring folders in {shown(root)} without pictures: {', '.join(empty)}")
    classes = listed or [name for name in folders if name not in empty]
    if len(classes) < 2:
        found = f"{counted(len(classes), 'class', 'classes')} ({', '.join(classes) or 'no picture'})"
        below = [Path(folder, name) for folder in as_list(root) for name in classes]
        for path in below:
            refuse_parts(path, folders_in(path))
        hint = [f", or give --train-data-root={shlex.quote(str(path))}" for path in below if len(folders_in(path)) > 1]
        raise UserError(f"{shown(root)} has {found}: two are needed{''.join(hint)}")
    if not listed:
        note_alike({name: folders[name] for name in classes}, Path(as_list(root)[0]))
    return classes


def note_alike(folders: dict[str, list[Sample]], root: Path) -> None:
    """A note where the classes all have the same subfolders: they may be parts of the data, and those the classes."""
    inside = {
        frozenset(path.parts[1] for one in some if len((path := Path(one.name)).parts) > 2) for some in folders.values()
    }
    names = sorted(next(iter(inside)), key=alphabetical)
    if len(inside) == 1 and len(names) > 1:
        first, second = (shlex.quote(str(root / name)) for name in [*folders][:2])
        note_once(
            f"the classes are the folders {', '.join(folders)}, and each has {', '.join(names)}: if those are the "
            f"classes, give --train-data-root={first} --val-data-root={second}; class_name.txt in {root} ends this note"
        )


def folders_in(folder: Path) -> list[str]:
    """The names of its subfolders, none where it is missing."""
    return [path.name for path in folder.glob("*") if path.is_dir() and not hidden(path.name)]


def disguised(root: str | Path, name: str) -> list[Path]:
    """Files in the folder <root>/<name> that are pictures by their content, or should be by their suffix: of every
    suffix the first one is looked at."""
    files = {path.suffix: path for path in sorted(Path(root, name).rglob("*"), reverse=True) if path.is_file()}
    return [
        path
        for path in files.values()
        if not hidden(path.name) and ("image/" in str(mimetypes.guess_type(path.name)[0]) or can_be_opened(path))
    ]


def pictures_in(root: str | Path) -> tuple[list[Sample], int]:
    """(Samples of all pictures below it in alphabetical order, the number of other files). A picture's name and id are
    its path from root, as text with forward slashes. What is hidden does not count."""
    pictures, others = [], 0
    for folder, inner, files in os.walk(as_folder(root, WANTED), followlinks=True):
        around = [name for name in inner if Path(folder).resolve().is_relative_to(Path(folder, name).resolve())]
        inner[:] = [name for name in inner if not hidden(name) and name not in around]  # else a link upwards has no end
        for path in (Path(folder, name) for name in files if not hidden(name)):
            if path.suffix.lower() in SUFFIXES:
                name = path.relative_to(root).as_posix()
                pictures.append(Sample(path, name, name))
            elif path.name != "class_name.txt":
                others += 1
    return sorted(pictures, key=lambda picture: alphabetical(picture.name)), others


def alphabetical(name: str) -> tuple[str, str]:
    """The sort key of a name, the same on every system: case only decides between names that are otherwise equal."""
    return name.lower(), name
