"""Data sets of labelled pictures that are found in folders or lists, and split into train and val."""

from typing import Any

from utils import UserError
from utils.notices import counted

from .folds import grouped, part_of_folds
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
        folds, fold: without val_data_root val gets the part `fold` of `folds`, train all others, see folds.py.
        group: what keeps samples in one fold, a pattern of their names, or for lists a column; None: nothing.
        options: the other arguments of PictureData.

    `lost` are the broken pictures of the classes that have no other: list of (class, path (reason)).

    Raises UserError when a class of `root` has too few samples.
    """

    whole_roots = True

    def __init__(
        self,
        root: Roots,
        mode: str,
        val_data_root: Roots = (),
        val_size: int | None = None,
        folds: int | None = None,
        fold: int | str | None = None,
        group: str | None = None,
        **options: Any,
    ):
        self.group, divided = group, (folds, fold, group)
        if mode == "test":
            samples = everything = unique_ids(self.unlabelled(root))
        else:
            samples, everything = self.choose(mode, root, val_data_root, val_size, divided)
        mine = set(samples)
        own = [number for number, sample in enumerate(everything) if sample in mine]
        paths, targets = [sample.path for sample in everything], [sample.target for sample in everything]
        super().__init__(paths, targets, mode, own=own, **options)
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

    def groups(self, samples: list[Sample]) -> list[str]:
        """The name of each sample's group: those of one group are in the same fold."""
        return grouped([sample.name for sample in samples], self.group)

    def choose(
        self, mode: str, root: Roots, val_data_root: Roots, val_size: int | None, divided: Any
    ) -> tuple[list[Sample], list[Sample]]:
        """(the samples of train or val mode, those that share their pack), class by class. divided: folds, fold, group;
        all folds have one pack."""
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
        everything = [sample for group in groups for sample in group]
        if divided[0] and not val_data_root:
            labels, names = [sample.target for sample in everything], [f"picture of {name}" for name in self.classes]
            kept = set(part_of_folds(everything, labels, self.groups(everything), names, divided, mode))
            groups = [[sample for sample in group if sample in kept] for group in groups]
        elif not val_data_root:
            groups = [split(group)[mode] for group in groups]
        if mode == "val" and val_size:
            groups = spread(groups, val_size)
        samples = [sample for group in groups for sample in group]
        return samples, everything if divided[0] and not val_data_root else samples
