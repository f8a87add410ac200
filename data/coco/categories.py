"""The labels that a model learns for the categories of COCO files, and their ids in results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils import UserError
from utils.notices import note_once

from .format import Picture, read_coco
from .values import in_order

HIGHEST_ID = 10_000  # of a category that is its own label: a model has an output for every label up to the highest
SHOWN = 8  # categories in a note


def label_categories(files: Sequence[Path]) -> tuple[dict[int, str], dict[Any, int]]:
    """({label: name}, {category id: label}, {} if all are the same) for COCO files that belong together. Ids from 1 to
    HIGHEST_ID are labels; where there are others (0, texts), the labels are 1, 2, ... in the order of the ids. Another
    one that no file annotates, and that only groups the rest, gets none. Raises UserError where the files differ."""
    contents = [read_coco(file) for file in files]
    grouping = {id for content in contents for id in content.groups if not is_label(id)}
    grouping -= {id for content in contents for id in content.categories.keys() - content.groups}
    first, *others = (
        {id: name for id, name in content.categories.items() if id not in grouping} for content in contents
    )
    for file, other in zip(files[1:], others, strict=True):
        differing = sorted(first.items() ^ other.items(), key=lambda one: (in_order(one[0]), one[1]))
        if differing:
            id, name = differing[0]
            raise UserError(f"{files[0]} and {file} differ in their categories: {id} {name} is in one of them only")
    for id in sorted(grouping, key=in_order):
        name = next(content.categories[id] for content in contents if id in content.categories)
        note_once(f"{files[0]}: the category {id} {name} has no annotations and only groups others: left out")
    if all(map(is_label, first)):
        return first, {}
    labels = {id: label for label, id in enumerate(first, start=1)}
    note_once(f"{files[0]}: the model's labels are 1 to {len(first)}, for the category ids {listed(map(str, first))}")
    return {labels[id]: name for id, name in first.items()}, labels


def is_label(id: int | str) -> bool:
    """Whether a category's id is its label."""
    return isinstance(id, int) and 1 <= id <= HIGHEST_ID


def relabel(picture: Picture, labels: dict[Any, int], crowds: str = "ignore") -> Picture:
    """The Picture with labels for the categories' ids, where there are labels, and its crowds and difficult objects as
    CocoMask takes them."""
    single = {"iscrowd": 0, "difficult": 0} if crowds == "objects" else {}
    if not labels and not single:
        return picture
    changed = [
        {**one, "category_id": labels.get(one["category_id"], one["category_id"])} for one in picture.annotations
    ]
    return picture._replace(annotations=[one | single for one in changed])


def category_ids(classes: Sequence[str], written: dict[Any, str], path: str) -> dict[int, Any]:
    """{label: category id for the results in `path`}: the id that the test file has for the class's name, which is the
    label where that is the name, too. Where the file names no such class it is the label, and a note says so.

    classes: index = label; written: {id: name} of the test file.
    """
    by_name = {name: id for id, name in reversed(written.items())}
    ids = {label: label if written.get(label) == name else by_name.get(name) for label, name in enumerate(classes)}
    missing = [label for label, id in ids.items() if id is None and classes[label] not in ("background", "unused")]
    if missing:
        note_once(f"category_id in {path} is the class's number: {listed(f'{n} {classes[n]}' for n in missing)}")
    return {label: label if id is None else id for label, id in ids.items()}


def listed(names: Any) -> str:
    """Texts with commas between them, of many the first ones."""
    names = list(names)
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
