"""Pictures whose objects stand in a file of their own each, with categories that are known by what the files have."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.pictures.split import Roots, as_list, digest, part_of, shown
from utils import UserError
from utils.notices import counted, note_once

from .categories import listed, relabel
from .data_set import CocoMask
from .format import NO_OUTLINE, Picture, outline_of

Parts = dict[str, list[Picture]]  # train and val where a root is divided, else "" alone


class BoxFiles(CocoMask):
    """CocoMask from other files: a subclass defines `read`, `names` and `folder`. Results have the numbers of the
    classes, from 1, as category_id. A root that is divided into train and val gives each mode its part."""

    def read(self, root: Path) -> Parts:
        """The Pictures of a root; their annotations have a name or number as category_id, and `where` they stand."""
        raise NotImplementedError

    def names(self, root: Path, used: set[Any]) -> dict[Any, str]:
        """{category: name} in the order of the labels, for those that a root's files use."""
        raise NotImplementedError

    def folder(self, root: Path) -> Path:
        """The folder with the pictures of a root."""
        raise NotImplementedError

    def labelled(
        self, root: Roots, mode: str, val_data_root: Roots, val_size: int | None
    ) -> tuple[list[Picture], dict[int, str]]:
        """See CocoMask. Raises UserError."""
        roots = as_list(val_data_root if mode == "val" and val_data_root else root)
        own = [self.read(Path(one)) for one in roots]
        first = [one for one in as_list(root) if Path(one).exists()] or roots  # it names the classes
        known = own if first == roots else [self.read(Path(one)) for one in first]
        used = {one["category_id"] for parts in known for picture in together(parts) for one in picture.annotations}
        names = self.names(Path(first[0]), used)
        divided = all(mode in parts for parts in own)
        pictures = sorted([one for parts in own for one in (parts[mode] if divided else together(parts))], key=digest)
        for one in (one for picture in pictures for one in picture.annotations):
            if one["category_id"] not in names:
                raise UserError(
                    f"{one['where']}: the class {one['category_id']} is none of the {len(names)} of {first[0]}: "
                    f"{listed(f'{id} {name}' if id != name else name for id, name in names.items())}"
                )
        few = f"{shown(root)} has {counted(len(pictures), 'picture')}"
        pictures = part_of(pictures, mode, "divided" if divided else val_data_root, val_size, few)
        left_out = [one["iscrowd"] and self.crowds == "ignore" for picture in pictures for one in picture.annotations]
        if mode == "train" and all(left_out):
            why = (
                f"all {len(left_out)} objects are difficult; --crowds=objects takes them"
                if left_out
                else "there is no object"
            )
            raise UserError(f"{shown(roots)} has nothing to train on: {why}")
        labels = {category: label for label, category in enumerate(names, start=1)}
        pictures = [relabel(picture, labels, self.crowds) for picture in pictures]
        return pictures, dict(enumerate(names.values(), start=1))

    def unlabelled(self, root: Roots) -> tuple[list[Picture], dict[int | str, str]]:
        """See CocoMask."""
        return super().unlabelled([self.folder(Path(one)) for one in as_list(root)])


def together(parts: Parts) -> list[Picture]:
    """All Pictures of a root."""
    return [picture for group in parts.values() for picture in group]


def pictures_of(folder: Path) -> Path:
    """The folder with the pictures of a data set."""
    return next((folder / name for name in ("JPEGImages", "images") if (folder / name).is_dir()), folder)


def from_box(
    path: Path, where: str, category: Any, box: list[float], difficult: int = 0, outline: Sequence[list[float]] = ()
) -> dict[str, Any]:
    """An annotation as CocoMask has it. box: [x, y, w, h]; outline: polygons x, y, x, y, ..., else it is the box."""
    return {
        "image_id": str(path),
        "category_id": category,
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": difficult,
        "difficult": difficult,
        "segmentation": outline or [outline_of(box)],
        "where": where,
    }


def note_boxes(root: Path, empty: int, plain: int) -> None:
    """Note how many boxes of a root have no area, and how many no outline."""
    if empty:
        note_once(f"{root}: {counted(empty, 'box', 'boxes')} without an area in the picture, left out")
    if plain:
        note_once(f"{root}: {counted(plain, 'box', 'boxes')} {NO_OUTLINE}")
