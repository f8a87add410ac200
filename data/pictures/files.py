"""Data sets of labelled pictures that are found in folders or lists, and split into train and val."""

from typing import Any

from utils import UserError
from utils.notices import counted

from .labelled import PictureData
from .split import Roots, Sample, by_class, shown, split, spread, unique_ids


class PictureFiles(PictureData):
    """Pictures with a label that are found in folders or lists, and split into train and val. A subclass defines
    `labelled` and `unlabelled`.

    With val_data_root each mode has all of its own root, else they share `root` 70/30. The split depends only on names:
    within each class samples are ordered by a hash of their names, so that both parts get their share of every class,
    and adding cats moves no dog.

    Args:
        root: one folder or list, or several that count as one.
        mode: train, val or test.
        val_data_root: the same for val mode; without it val gets 30 % of root.
        val_size: maximum number of samples in val mode, see `spread`; or None.
        options: the other arguments of PictureData.

    `lost` are the broken pictures of the classes that have no other: list of (class, path (reason)).

    Raises UserError when a class of `root` has too few samples.
    """

    whole_roots = True

    def __init__(self, root: Roots, mode: str, val_data_root: Roots = (), val_size: int | None = None, **options: Any):
        samples = (
            unique_ids(self.unlabelled(root)) if mode == "test" else self.choose(mode, root, val_data_root, val_size)
        )
        super().__init__([sample.path for sample in samples], [sample.target for sample in samples], mode, **options)
        sound, left = set(self.paths), set(self.targets)
        broken = [sample.target for sample in samples if sample.path not in sound] if mode != "test" else []
        self.lost = [
            (self.classes[label], why) for label, why in zip(broken, self.broken, strict=False) if label not in left
        ]

    def labelled(self, roots: Roots, root: Roots) -> list[Sample]:
        """The Samples in `roots`, with the classes of `root`, to which it sets `classes`."""
        raise NotImplementedError

    def unlabelled(self, root: Roots) -> list[Sample]:
        """The Samples of test mode, whose targets are ids."""
        raise NotImplementedError

    def choose(self, mode: str, root: Roots, val_data_root: Roots, val_size: int | None) -> list[Sample]:
        """The samples of train or val mode, class by class."""
        elsewhere = mode == "val" and val_data_root
        samples = self.labelled(val_data_root if elsewhere else root, root)
        groups = by_class(samples, len(self.classes))
        least, why = (
            (1, "") if val_data_root else (2, ", one to train on and one to validate on, or give --val-data-root")
        )
        for name, group in zip(self.classes, groups, strict=True):
            if len(group) < least and not elsewhere:
                pictures = counted(len(group), "picture")
                raise UserError(f"{shown(root)} has {pictures} of {name}: every class needs {least}{why}")
        if not val_data_root:
            groups = [split(group)[mode] for group in groups]
        if mode == "val" and val_size:
            groups = spread(groups, val_size)
        return [sample for group in groups for sample in group]
