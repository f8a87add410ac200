"""Kaggle's Dogs vs. Cats: https://www.kaggle.com/c/dogs-vs-cats/data"""

import hashlib
import re
from pathlib import Path

from utils import UserError
from utils.files import write_csv

from .pictures import PictureData, as_list, folder_files

WHERE = (
    "get train.zip and test1.zip from https://www.kaggle.com/c/dogs-vs-cats/data, "
    "or try `python main.py train --config=Demo`, which draws its own pictures"
)
TRAIN_SHARE = 0.7


class DogCat(PictureData):
    """Files named <class>.<num>.jpg, split 70/30 into train and val; in test mode <num>.jpg, the number being the id.

    Cat is 0, dog is 1. The split depends on the files' names alone: within each class they are put in the order of a
    hash of the name, so that both parts have their share of both classes, and adding cats moves no dog.
    See PictureData for items and the other arguments.

    Args:
        root: one folder, or a list of them.
        mode: train, val or test.
    """

    classes = ("cat", "dog")

    def __init__(self, root, mode, image_size=224, min_crop=0.08, noise=0.0, **_):
        pattern = r"(?P<id>\d{1,18})\.jpe?g" if mode == "test" else r"(?P<name>cat|dog)\.\d+\.jpe?g"
        files = folder_files(root, WHERE)
        matches = [(path, match) for path in files if (match := re.fullmatch(pattern, path.name, re.IGNORECASE))]
        expected = "<num>.jpg" if mode == "test" else "cat.<num>.jpg or dog.<num>.jpg"
        if not matches:
            inside = sorted({path.name for one in as_list(root) for path in Path(one).iterdir() if path.is_dir()})
            hint = f"{len(files)} other files" + (f", and folders: {', '.join(inside[:5])}" if inside else "")
            raise UserError(f"no picture named {expected} in {root} ({hint}): {WHERE}")
        if len(matches) < len(files) and mode != "val":  # train has said so of the same folder
            print(f"note: {len(files) - len(matches)} files in {root} are not named {expected} and are passed over")
        if mode == "test":
            samples = sorted((int(match["id"]), path) for path, match in matches)
            for (id, path), (next_id, other) in zip(samples, samples[1:], strict=False):
                if id == next_id:
                    raise UserError(f"the id {id} is there twice, {path} and {other}: there can be one prediction only")
        else:
            by_class = [[p for p, match in matches if match["name"].lower() == name] for name in self.classes]
            for name, paths in zip(self.classes, by_class, strict=True):
                if len(paths) < 2:
                    raise UserError(
                        f"{root} has {len(paths)} pictures of a {name}: two at least of each class are needed"
                    )
            samples = [(label, path) for label, paths in enumerate(by_class) for path in split(paths)[mode]]
        super().__init__([path for _, path in samples], [n for n, _ in samples], mode, image_size, min_crop, noise)

    def write_results(self, path, ids, predictions):
        """Kaggle's CSV: header id,label and a row per picture in order of the ids, label = probability of dog."""
        write_csv(path, ["id", "label"], ([id, dog] for id, (_, dog) in self.results(ids, predictions)))


def split(paths):
    """One class's files -> {"train": ..., "val": ...}, neither of them empty."""
    ranked = sorted(paths, key=lambda path: hashlib.sha256(path.name.lower().encode()).digest())
    cut = min(max(round(TRAIN_SHARE * len(ranked)), 1), len(ranked) - 1)
    return {"train": ranked[:cut], "val": ranked[cut:]}
