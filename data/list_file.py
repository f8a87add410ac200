"""Pictures named in text files, with their labels."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils import UserError

from .pictures.files import PictureFiles
from .pictures.split import RootError, Roots, Sample, as_list, class_names, read_lines, shown
from .pictures.table import read_rows

Line = tuple[str, Sample]  # list file and number of the line; path, label or "", path as it is written


class ListFile(PictureFiles):
    """Lines `path label`; the path is relative to the list's own folder and may contain spaces. In test mode lines
    `path`, which is the id; a label after it is ignored, and so are blank lines and lines that begin with #. Tables
    with tabs, semicolons or commas are read, too, as Kaggle's train.csv, whose ids are names without suffix; see
    read_rows.

    Labels are whole numbers from 0, or names. A file class_name.txt beside the first list, a name per line, fixes the
    classes and their order; without one they are the names in alphabetical order, or the numbers. Missing files are
    left out like broken pictures. `root` is one list file, or several that count as one. `columns` are the names or
    numbers of a table's columns with the pictures and with the labels; `group` may be another one. See PictureFiles for
    the split and the other arguments.
    """

    def __init__(self, root: Roots, mode: str, columns: Sequence[str] = (), **options: Any):
        self.columns = columns
        self.cells: dict[Path, str] = {}  # of the column that --group names, if there is one
        super().__init__(root, mode, **options)

    def labelled(self, roots: Roots, root: Roots) -> list[Sample]:
        """The Samples in the lists `roots`, with the classes of `root`."""
        lines, beside = read(root, self.columns, group=self.group, cells=self.cells), Path(as_list(root)[0]).parent
        listed, numeric = class_names(beside), check_labels(lines)
        self.classes = listed or pick_classes(lines, numeric)
        if len(self.classes) < 2:
            raise UserError(f"{shown(root)} has only one class, {self.classes[0]}: two are needed")
        number_of = {name: number for number, name in enumerate(self.classes)}
        samples = []
        for where, (path, label, name) in lines if roots is root else read(roots, self.columns):
            number = int(label) if numeric and is_number(label) else number_of.get(label)
            if number is None or number >= len(self.classes):
                source = beside / "class_name.txt" if listed else shown(root)
                raise UserError(f"{where}: the label {label} is none of the {len(self.classes)} classes of {source}")
            samples.append(Sample(path, number, name))
        return samples

    def groups(self, samples: list[Sample]) -> list[str]:
        """The name of each sample's group: its cell in the column `group`, else see PictureFiles."""
        if not any(self.cells.values()):
            return super().groups(samples)
        without = next((sample.name for sample in samples if not self.cells[sample.path]), None)
        if without is not None:
            raise UserError(f"--group={self.group}: the line of {without} has nothing in this column")
        return [self.cells[sample.path] for sample in samples]

    def unlabelled(self, root: Roots) -> list[Sample]:
        """The Samples of test mode, whose ids are the paths as they are written."""
        return [sample._replace(target=sample.name) for _, sample in read(root, self.columns, labelled=False)]


def read(
    roots: Roots,
    columns: Sequence[str] = (),
    labelled: bool = True,
    group: str | None = None,
    cells: dict[Path, str] | None = None,
) -> list[Line]:
    """The lines that name pictures in these lists, see read_rows. `cells` gets what is in the column `group`, if there
    is one, by the pictures' paths.

    Raises UserError when there is none, and with `labelled` for a line without a label.
    """
    found = []
    for file in map(Path, as_list(roots)):
        if file.is_dir():
            raise RootError(file, f"{file} is a folder: ListFile takes text files, --dataset=ImageFolder takes folders")
        if not file.exists():
            raise RootError(file, f"there is no file {file}: give a text file with lines `path label`")
        texts = enumerate(map(str.strip, read_lines(file)), start=1)
        lines = [(number, text) for number, text in texts if text and not text.startswith("#")]
        for number, name, path, label, cell in read_rows(file, lines, labelled, columns, group) if lines else ():
            if labelled and not label:
                raise UserError(
                    f"{file}:{number}: there is no label: a line is `path label`, or every line has the same columns"
                )
            found.append((f"{file}:{number}", Sample(path, label, name)))
            if cells is not None:
                cells[path] = cell
    if not found:
        raise UserError(f"{shown(roots)} names no picture: lines `path label` are expected")
    return found


def check_labels(lines: list[Line]) -> bool:
    """Whether the labels are numbers (True) or names (False). Raises UserError when one is negative, or when there are
    both numbers and names."""
    first, (_, first_label, _) = lines[0]
    numeric = is_number(first_label)
    for where, (_, label, _) in lines:
        if re.fullmatch(r"-\d+", label, re.ASCII):
            raise UserError(f"{where}: the label {label} is negative: labels are 0, 1, 2, ... or names")
        if is_number(label) != numeric:
            raise UserError(
                f"{where}: the label {label} is a {'name' if numeric else 'number'}, and that in {first}, "
                f"{first_label}, is not: write all as numbers or all as names"
            )
    return numeric


def pick_classes(lines: list[Line], numeric: bool) -> list[str]:
    """Names of the classes that occur in these lines. Raises UserError when a number is missing."""
    if not numeric:
        return sorted({label for _, (_, label, _) in lines})
    used = sorted({int(label) for _, (_, label, _) in lines})
    gap = next((number for number, label in enumerate(used) if number != label), None)
    if gap is not None:
        where, label = next((where, label) for where, (_, label, _) in lines if int(label) > gap)
        raise UserError(f"{where}: there is a label {label}, but no line has {gap}: labels are 0, 1, 2, ...")
    return [str(label) for label in used]


def is_number(label: str) -> bool:
    """Whether a label is a whole number of 0 or more."""
    return re.fullmatch(r"\d{1,9}", label, re.ASCII) is not None
