"""Pictures named in text files, with their labels."""

import re
from pathlib import Path
from typing import Any

from utils import UserError

from .pictures.labelled import PictureData
from .pictures.split import SUFFIXES, Roots, Sample, as_list, choose, class_names, read_lines, shown, unique_ids

Line = tuple[Path, int, str, str]  # list file, number of the line, path, label or ""


class ListFile(PictureData):
    """Lines `path label`; the path is relative to the list's own folder and may contain spaces. In test mode lines
    `path`, which is the id; a label after it is ignored, and so are blank lines and lines that begin with #.

    Labels are whole numbers from 0, or names. A file class_name.txt beside the first list, a name per line, fixes the
    classes and their order; without one they are the names in alphabetical order, or the numbers. Missing files are
    left out like broken pictures. See `choose` for the split into train and val, and PictureData for items and the
    other arguments.

    Args:
        root: one list file, or several that count as one.
        mode: train, val or test.
        val_data_root: lists for val mode; without them it gets 30 % of root.
        val_size: maximum number of samples in val mode, or None.
    """

    def __init__(self, root: Roots, mode: str, val_data_root: Roots = (), val_size: int | None = None, **options: Any):
        if mode == "test":
            samples = unique_ids([Sample(file.parent / path, path, path) for file, _, path, _ in read(root)])
        else:
            lines, beside = read(root, labelled=True), Path(as_list(root)[0]).parent
            listed = class_names(beside)
            numeric = check_labels(lines)
            self.classes = listed or pick_classes(lines, numeric)
            if len(self.classes) < 2:
                raise UserError(f"{shown(root)} has only one class, {self.classes[0]}: two are needed")
            number_of = {name: number for number, name in enumerate(self.classes)}

            def find(roots: Roots) -> list[Sample]:
                samples = []
                for file, number, path, label in lines if roots is root else read(roots, labelled=True):
                    target = int(label) if numeric and is_number(label) else number_of.get(label)
                    if target is None or target >= len(self.classes):
                        source = beside / "class_name.txt" if listed else shown(root)
                        raise UserError(
                            f"{file}:{number}: the label {label} is none of the {len(self.classes)} classes of {source}"
                        )
                    samples.append(Sample(file.parent / path, target, path))
                return samples

            samples = choose(mode, find, self.classes, root, val_data_root, val_size)
        super().__init__([sample.path for sample in samples], [sample.target for sample in samples], mode, **options)


def read(roots: Roots, labelled: bool = False) -> list[Line]:
    """The lines that name pictures in these lists.

    Raises UserError when there is none, and with `labelled` for a line without a label.
    """
    found = []
    for file in map(Path, as_list(roots)):
        if file.is_dir():
            raise UserError(f"{file} is a folder: ListFile takes text files, --dataset=ImageFolder takes folders")
        for number, line in enumerate(read_lines(file), start=1):
            line = line.strip()
            if line and not line.startswith("#"):
                path, label = path_and_label(line)
                if labelled and not label:
                    raise UserError(f"{file}:{number}: there is no label: a line is `path label`")
                found.append((file, number, path, label))
    if not found:
        raise UserError(f"{shown(roots)} names no pictures: lines `path label` are expected")
    return found


def path_and_label(line: str) -> tuple[str, str]:
    """A line split at its last white space; its label is "" if the line ends with a picture's suffix."""
    words = line.rsplit(maxsplit=1)
    return (line, "") if len(words) < 2 or Path(words[1]).suffix.lower() in SUFFIXES else (words[0], words[1])


def check_labels(lines: list[Line]) -> bool:
    """Whether the labels are numbers (True) or names (False). Raises UserError when one is negative, or when there are
    both numbers and names."""
    first_file, first_number, _, first_label = lines[0]
    numeric = is_number(first_label)
    for file, number, _, label in lines:
        if re.fullmatch(r"-\d+", label, re.ASCII):
            raise UserError(f"{file}:{number}: the label {label} is negative: labels are 0, 1, 2, ... or names")
        if is_number(label) != numeric:
            kinds = "a name, and" if numeric else "a number, and"
            raise UserError(
                f"{file}:{number}: the label {label} is {kinds} that in {first_file}:{first_number}, {first_label}, is "
                "not: write all as numbers or all as names"
            )
    return numeric


def pick_classes(lines: list[Line], numeric: bool) -> list[str]:
    """Names of the classes that occur in these lines. Raises UserError when a number is missing."""
    if not numeric:
        return sorted({label for *_, label in lines})
    used = sorted({int(label) for *_, label in lines})
    gap = next((number for number, label in enumerate(used) if number != label), None)
    if gap is not None:
        file, number, _, label = next(line for line in lines if int(line[3]) > gap)
        raise UserError(f"{file}:{number}: there is a label {label}, but no line has {gap}: labels are 0, 1, 2, ...")
    return [str(label) for label in used]


def is_number(label: str) -> bool:
    """Whether a label is a whole number of 0 or more."""
    return re.fullmatch(r"\d{1,9}", label, re.ASCII) is not None
