"""Kaggle's Dogs vs. Cats: https://www.kaggle.com/c/dogs-vs-cats/data"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils import UserError
from utils.files import write_csv
from utils.notices import note_once

from .pictures.files import PictureFiles
from .pictures.split import Roots, Sample, as_list, folder_files, shown

WHERE = (
    "get train.zip and test1.zip from https://www.kaggle.com/c/dogs-vs-cats/data, "
    "or try `python main.py train --config=Demo`, which draws its own pictures"
)


class DogCat(PictureFiles):
    """Files named <class>.<num>.jpg, split 70/30 into train and val. In test mode <num>.jpg, where <num> is the id.

    Cat is 0, dog is 1. `root` is one folder, or a list of them. See PictureFiles for the split and the arguments.
    """

    classes = ("cat", "dog")

    def labelled(self, roots: Roots, root: Roots) -> list[Sample]:
        """The Samples in the folders `roots`."""
        found = named(roots, r"(cat|dog)\.\d+\.jpe?g", "cat.<num>.jpg or dog.<num>.jpg")
        return [Sample(path, self.classes.index(match[1].lower()), path.name) for path, match in found]

    def unlabelled(self, root: Roots) -> list[Sample]:
        """The Samples of test mode, in order of their ids."""
        found = named(root, r"(\d{1,18})\.jpe?g", "<num>.jpg")
        return sorted((Sample(path, int(match[1]), path.name) for path, match in found), key=lambda one: one.target)

    def write_results(self, path: str, predictions: Iterable[tuple[list[Any], Any]]) -> None:
        """Write Kaggle's CSV: header id,label and a row per picture in order of the ids, label = probability of dog."""
        write_csv(path, ["id", "label"], ([id, dog] for id, (_, dog) in self.results(predictions)))


def named(roots: Roots, pattern: str, expected: str) -> list[tuple[Path, re.Match[str]]]:
    """(path, match) of the files in the folders `roots` whose names match the pattern. `expected` describes it in
    messages; a note counts the other files. Raises UserError when no name matches."""
    files = folder_files(roots, WHERE)
    found = [(path, match) for path in files if (match := re.fullmatch(pattern, path.name, re.IGNORECASE))]
    if not found:
        inside = sorted({path.name for root in as_list(roots) for path in Path(root).iterdir() if path.is_dir()})
        hint = f"{len(files)} other files" + (
            f", and folders, {', '.join(inside[:5])}: a folder per class is for --dataset=ImageFolder" if inside else ""
        )
        raise UserError(f"no picture named {expected} in {shown(roots)} ({hint}): {WHERE}")
    if len(found) < len(files):
        note_once(f"{len(files) - len(found)} files in {shown(roots)} are not named {expected} and are ignored")
    return found
