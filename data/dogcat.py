"""Kaggle's Dogs vs. Cats: https://www.kaggle.com/c/dogs-vs-cats/data"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils.files import write_csv
from utils.notices import counted, warn_once

from .pictures.files import PictureFiles
from .pictures.read import SUFFIXES
from .pictures.split import RootError, Roots, Sample, as_list, folder_files, has_some, shown

LABELLED = r"(cat|dog)\.\d+"  # how the names of pictures begin


class DogCat(PictureFiles):
    """Pictures named <class>.<num>.jpg, split 70/30 into train and val. In test mode <num>.jpg, where <num> is the id.
    Every suffix of a picture will do.

    Cat is 0, dog is 1. `root` is one folder, or a list of them. See PictureFiles for the split and the arguments.
    """

    classes = ("cat", "dog")
    where = (  # its pictures come from, for messages
        "give another, get train.zip and test1.zip from https://www.kaggle.com/c/dogs-vs-cats/data, or try "
        "`python main.py train --config=Demo`, which draws its own pictures"
    )

    def labelled(self, roots: Roots, root: Roots) -> list[Sample]:
        """The Samples in the folders `roots`."""
        found = named(roots, LABELLED, "cat.<num>.jpg or dog.<num>.jpg", self.where)
        return [Sample(path, self.classes.index(match[1].lower()), path.name) for path, match in found]

    def unlabelled(self, root: Roots) -> list[Sample]:
        """The Samples of test mode, in order of their ids."""
        found = named(root, r"(\d{1,18})", "<num>.jpg", self.where)
        return sorted((Sample(path, int(match[1]), path.name) for path, match in found), key=lambda one: one.target)

    def write_results(self, path: str, predictions: Iterable[tuple[list[Any], Any]]) -> None:
        """Write Kaggle's CSV: header id,label and a row per picture in order of the ids. The label is the probability
        of dog, which the Redux edition scores, or with `labels` 1 for a dog and 0 for a cat, for the first contest."""
        rows = ((id, dog) for id, (_, dog) in self.results(predictions))
        write_csv(path, ["id", "label"], ((id, round(float(dog))) for id, dog in rows) if self.labels else rows)


def named(roots: Roots, pattern: str, expected: str, where: str) -> list[tuple[Path, re.Match[str]]]:
    """(path, match) of the files in the folders `roots` whose names are the pattern and a picture's suffix. `expected`
    describes it in messages; a warning names other files. Raises RootError, which ends with `where`, when no name
    matches."""
    files, labelled = folder_files(roots, where), pattern == LABELLED
    pattern = rf"{pattern}\.(?:{'|'.join(sorted(SUFFIXES)).replace('.', '')})"
    found = [(path, match) for path in files if (match := re.fullmatch(pattern, path.name, re.IGNORECASE))]
    taken = {path for path, _ in found}
    others = [path.name for path in files if path not in taken]
    some = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
    if not found:
        inside = sorted({path.name for root in as_list(roots) for path in Path(root).iterdir() if path.is_dir()})
        hint = f"; folders per class, as {', '.join(inside[:5])}, are for --dataset=ImageFolder" if inside else ""
        if not labelled and any(re.match(LABELLED, name, re.IGNORECASE) for name in others):
            hint = "; `val` measures those with labels, `predict` takes any"
        hint = has_some(roots, pattern) or hint
        count = counted(len(files), "other file") + (f": {some}" if some else "")
        text = f"no picture named {expected} in {shown(roots)} ({count}{hint}): {where}"
        raise RootError(as_list(roots)[0], text)
    if others:
        warn_once(f"ignoring {counted(len(others), 'file')} in {shown(roots)}, not named {expected}, say: {some}")
    return found
