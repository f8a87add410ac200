"""Kaggle's Dogs vs. Cats: https://www.kaggle.com/c/dogs-vs-cats/data"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils import UserError
from utils.files import write_csv
from utils.notices import note_once

from .pictures.labelled import PictureData
from .pictures.split import Roots, Sample, as_list, choose, folder_files, shown, unique_ids

WHERE = (
    "get train.zip and test1.zip from https://www.kaggle.com/c/dogs-vs-cats/data, "
    "or try `python main.py train --config=Demo`, which draws its own pictures"
)


class DogCat(PictureData):
    """Files named <class>.<num>.jpg, split 70/30 into train and val. In test mode <num>.jpg, where <num> is the id.

    Cat is 0, dog is 1. See `choose` for the split and PictureData for items and the other arguments.

    Args:
        root: one folder, or a list of them.
        mode: train, val or test.
        val_data_root: folders for val mode; without them it gets 30 % of root.
        val_size: maximum number of samples in val mode, or None.
    """

    classes = ("cat", "dog")

    def __init__(self, root: Roots, mode: str, val_data_root: Roots = (), val_size: int | None = None, **options: Any):
        if mode == "test":
            found = named(root, r"(\d{1,18})\.jpe?g", "<num>.jpg")
            samples = [Sample(path, int(match[1]), path.name) for path, match in found]
            samples = unique_ids(sorted(samples, key=lambda sample: sample.target))
        else:
            samples = choose(mode, self.find, self.classes, root, val_data_root, val_size)
        super().__init__([sample.path for sample in samples], [sample.target for sample in samples], mode, **options)

    def find(self, roots: Roots) -> list[Sample]:
        """The labelled Samples in these folders."""
        found = named(roots, r"(cat|dog)\.\d+\.jpe?g", "cat.<num>.jpg or dog.<num>.jpg")
        return [Sample(path, self.classes.index(match[1].lower()), path.name) for path, match in found]

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
