"""Kaggle's Dogs vs. Cats: https://www.kaggle.com/c/dogs-vs-cats/data"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.files import write_csv
from utils.notices import counted, note_once

from .pictures.files import PictureFiles
from .pictures.split import RootError, Roots, Sample, as_list, folder_files, has_some, shown


class DogCat(PictureFiles):
    """Files named <class>.<num>.jpg, split 70/30 into train and val. In test mode <num>.jpg, where <num> is the id.

    Cat is 0, dog is 1. `root` is one folder, or a list of them. See PictureFiles for the split and the arguments.
    """

    classes = ("cat", "dog")
    where = (  # its pictures come from, for messages
        "give another, get train.zip and test1.zip from https://www.kaggle.com/c/dogs-vs-cats/data, or try "
        "`python main.py train --config=Demo`, which draws its own pictures"
    )

    def labelled(self, roots: Roots, root: Roots) -> list[Sample]:
        """The Samples in the folders `roots`."""
        found = named(roots, r"(cat|dog)\.\d+\.jpe?g", "cat.<num>.jpg or dog.<num>.jpg", self.where)
        return [Sample(path, self.classes.index(match[1].lower()), path.name) for path, match in found]

    def unlabelled(self, root: Roots) -> list[Sample]:
        """The Samples of test mode, in order of their ids."""
        found = named(root, r"(\d{1,18})\.jpe?g", "<num>.jpg", self.where)
        return sorted((Sample(path, int(match[1]), path.name) for path, match in found), key=lambda one: one.target)

    def write_results(self, path: str, predictions: Iterable[tuple[list[Any], Any]]) -> None:
        """Write Kaggle's CSV: header id,label and a row per picture in order of the ids. The label is the probability
        of dog, which the Redux edition scores, or with `labels` 1 for a dog and 0 for a cat, for the first contest."""
        rows = ((id, dog) for id, (_, dog) in self.results(predictions))
        write_csv(path, ["id", "label"], ((id, round(float(dog))) for id, dog in rows) if self.labels else rows)


def named(roots: Roots, pattern: str, expected: str, where: str) -> list[tuple[Path, re.Match[str]]]:
    """(path, match) of the files in the folders `roots` whose names match the pattern. `expected` describes it in
    messages; a note counts the other files. Raises RootError, which ends with `where`, when no name matches."""
    files = folder_files(roots, where)
    found = [(path, match) for path in files if (match := re.fullmatch(pattern, path.name, re.IGNORECASE))]
    if not found:
        inside = sorted({path.name for root in as_list(roots) for path in Path(root).iterdir() if path.is_dir()})
        hint = f"; folders per class, as {', '.join(inside[:5])}, are for --dataset=ImageFolder" if inside else ""
        hint = has_some(roots, pattern) or hint
        text = f"no picture named {expected} in {shown(roots)} ({counted(len(files), 'other file')}{hint}): {where}"
        raise RootError(as_list(roots)[0], text)
    if len(found) < len(files):
        note_once(f"ignoring {counted(len(files) - len(found), 'file')} in {shown(roots)}, not named {expected}")
    return found
