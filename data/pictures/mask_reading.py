"""How a data set's masks are to be read: what their values or colours mean, by what the first of them hold.

Where these allow two readings, an error says both and what decides; what was decided by the masks is a note.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils import UserError
from utils.metrics.iou_meter import UNLABELLED
from utils.notices import counted, note_once

from .images import in_threads
from .mask_tables import (
    IGNORED,
    Row,
    cityscapes,
    index_of,
    known_table,
    own_table,
    packed,
    shown_color,
    to_classes,
    without_void,
)
from .masks import LIST, MaskReader, open_mask
from .split import class_names, read_lines

LOOKED_AT = 32  # masks, the same in all modes: they have to be read alike
FLAT = (
    0.2  # of a class's pixels at least this share have neighbours of the same class; of a soft edge's values hardly any
)
EQUAL = "write equal palettes, or colors.txt in the folder of class_name.txt, lines `red green blue name`"
TWO = "class 0", "class 1"  # where nothing names them
STEPS = 16  # values that occur only at edges, from which on nothing but soft edges or JPEG explains them


class Look:
    """What the first masks hold.

    Attributes:
        colors: the packed colours of those with colours.
        values, flat: int64 [256], the pixels of each value in the others, and those of them whose right and lower
            neighbours are equal.
        many: (file, number of its values) of the one with most values.
        palettes: {index: (its packed colour, the first file)}.
        conflict: what two palettes disagree on, or "".
    """

    def __init__(self, targets: Iterable[Path]):
        self.colors: set[int] = set()
        self.values, self.flat = np.zeros(256, dtype=np.int64), np.zeros(256, dtype=np.int64)
        self.many: tuple[Any, int] = (None, 0)
        palettes = []
        for target, found in in_threads(attempt, list(targets)):
            if found is None:  # it is named later, like every broken one
                continue
            pixels, palette = found
            if pixels.ndim == 3:
                self.colors |= set(np.unique(packed(pixels)).tolist())
                continue
            counts = np.bincount(pixels.ravel(), minlength=256)
            same = (pixels[:-1, :-1] == pixels[1:, :-1]) & (pixels[:-1, :-1] == pixels[:-1, 1:])
            self.values += counts
            self.flat += np.bincount(pixels[:-1, :-1][same], minlength=256)
            self.many = max(self.many, (target, int((counts > 0).sum())), key=lambda one: one[1])
            if palette is not None:
                palettes += [(target, [[i, 0, packed(palette[i])] for i in counts.nonzero()[0].tolist()])]
        self.conflict = conflict_of(palettes)

    @property
    def present(self) -> set[int]:
        """The values that occur."""
        return set(self.values.nonzero()[0].tolist())

    @property
    def soft(self) -> bool:
        """Whether values between others occur only at edges: many, or a few between 0 and 255 alone."""
        edge = (self.values > 0) & (self.flat <= FLAT * self.values)
        inner, between = edge[1:255].sum(), edge[32:224].any()
        plain = {0, UNLABELLED} <= self.present and not edge[[0, UNLABELLED]].any()
        alone = plain and inner == len(self.present) - 2
        return inner > max(STEPS, len(self.present) / 2) or bool(alone and inner > 1 and between)

    @property
    def two(self) -> bool:
        """Whether what is flat is nearly black or nearly white."""
        return bool(self.flat[64:192].sum() < 0.05 * self.flat.sum())


def attempt(target: Path) -> tuple[Path, Any]:
    """(target, open_mask(target), or None where that fails)"""
    try:
        return target, open_mask(target)
    except UserError:
        return target, None


def conflict_of(facts: Iterable[tuple[Path, Sequence[Sequence[int]]]]) -> str:
    """What two palettes disagree on, or "". facts: (file, MaskReader's facts) of masks."""
    first: dict[int, tuple[int, Path]] = {}
    for target, rows in facts:
        for index, color in ((row[0], row[2]) for row in rows if len(row) > 2 and row[0] != UNLABELLED):
            known, other = first.setdefault(index, (color, target))
            if known != color:
                both = f"{shown_color(known)} in {other}, {shown_color(color)} in {target}"
                return f"the palettes of the masks differ: index {index} is {both}"
    return ""


def read_names(roots: Sequence[str], others: Sequence[str]) -> tuple[str, list[str] | None]:
    """(the first of a data set's roots that has a class_name.txt, its lines), or (the first root, None). A note names
    other ones: in the roots and in `others`, and where no root has one those beside and in the first, too.
    Raises UserError for one without a class, or with an empty line before the last name: the lines number the
    classes."""
    root = next((root for root in roots if class_names(root)), roots[0])
    names, near = class_names(root), [*map(Path, [*roots, *others])]
    if names is None:
        near += [Path(root).absolute().parent, *filter(Path.is_dir, Path(root).glob("*"))]
    elif not without_void(names):
        raise UserError(f"{Path(root, 'class_name.txt')} lists no class, {', '.join(names)} alone")
    elif "" in (lines := [line.strip() for line in read_lines(Path(root, "class_name.txt"))])[: len(names)]:
        empty = f"has nothing in line {lines.index('') + 1}, but a name after it"
        raise UserError(f"{Path(root, 'class_name.txt')} {empty}: the lines number the classes")
    unread = ", ".join(str(path / "class_name.txt") for path in near if has_other_names(path, names))
    if unread:
        why = f"{Path(root, 'class_name.txt')} names the classes" if names else f"it would have to be in {root}"
        note_once(f"not read: {unread}; {why}")
    return root, names


def has_other_names(folder: Path, names: list[str] | None) -> bool:
    """Whether a folder has a class_name.txt without these names; also one that cannot be read."""
    try:
        return class_names(folder) not in (None, names)
    except UserError:
        return True


def choose_reader(
    root: str | Path, names: list[str] | None, masks: Sequence[tuple[Path, ...]]
) -> tuple[MaskReader, list[str] | None]:
    """(how the masks of a data set are read, its classes where something names them).

    Args:
        root: the folder with class_name.txt, whose `names` are given (or None), and files like colors.txt.
        masks: the files of each, always in the same order.

    The last names count for nothing if they are called void or the like.

    Raises UserError where the masks have soft edges, or palettes that differ, and no file says how to read them.
    """
    listed, names = names, without_void(names)
    if any(len(files) > 1 for files in masks):
        return of_objects(root, listed, masks)
    look, table = Look(files[0] for files in masks[:LOOKED_AT]), own_table(root)
    if table and (look.colors or look.conflict or greys_of(table[1], look)):
        note_once(f"the masks of {root} are read by the colours of {table[0]}")
        return of_colors(*table, names)
    found = known_table(look.colors, listed) if look.colors else None
    if found:
        what, classes, rows = found
        note_once(f"the masks of {root} have the colours of {what}; colors.txt there gives others their classes")
        return of_colors(what, rows, without_void(classes))
    if look.colors and not look.present:
        some = ", ".join(map(shown_color, sorted(look.colors)[-3:]))
        raise UserError(f"the masks of {root} have colours ({some}, ...), and no file says whose: write {LIST}")
    if look.conflict:
        raise UserError(f"{look.conflict}: {EQUAL}")
    jpeg = any(files[0].suffix.lower() in (".jpg", ".jpeg") for files in masks[:LOOKED_AT])
    if look.soft or (jpeg and not look.present <= {0, UNLABELLED}):
        return of_soft(root, names, look)
    if look.present == {0, UNLABELLED} and len(listed or TWO) == 2 == len(names or TWO):
        note_once(f"the masks of {root} hold 0 and 255 alone: 255 is read as class 1")
        values = np.arange(256, dtype=np.uint8)
        values[UNLABELLED] = 1
        return MaskReader(values), names
    return of_ids(root, listed, masks, look)


def greys_of(rows: list[Row], look: Look) -> bool:
    """Whether the values are greys of a colour table, and too large for numbers of its classes."""
    greys = set(packed([[value] * 3 for value in sorted(look.present)]).tolist()) if look.present else set()
    return max(look.present, default=0) >= len(rows) and greys <= {color for color, _ in rows}


def of_colors(where: Any, rows: list[Row], names: list[str] | None) -> tuple[MaskReader, list[str]]:
    """choose_reader, by the colours of a table."""
    classes, colors = to_classes(rows, names, str(where))
    return MaskReader(colors=colors, where=str(where)), classes


def of_objects(
    root: str | Path, names: list[str] | None, masks: Sequence[tuple[Path, ...]]
) -> tuple[MaskReader, list[str] | None]:
    """choose_reader, of one file per object: of the class that the file is named after, or the only one. names: all
    lines of class_name.txt."""
    classes = without_void(names)
    stems = Counter(path.stem for files in masks for path in files)
    word, number = next(((stem, n) for stem, n in stems.items() if n > 1 and not stem.isdigit()), ("", 0))
    if names and classes and stems.keys() <= {*names}:
        note_once(f"the masks of {root} are one file per class, named like the lines of class_name.txt")
        return MaskReader(objects={name: index_of(name, classes) for name in stems}), classes
    if word or len(classes or TWO) != 2:
        seen = (
            f"{counted(number, 'picture')} have a mask {word}"
            if word
            else f"class_name.txt lists {counted(len(classes or ()), 'class', 'classes')}"
        )
        raise UserError(
            f"{root} has several masks of one picture, and {seen}: for a file per class, class_name.txt lists their "
            "names after that of the background; for a file per object, number them 1, 2, ... and list two classes or "
            "none"
        )
    note_once(f"the masks of {root} are one file per object: they are class 1, the rest is class 0")
    return MaskReader(objects={}), classes


def of_soft(root: str | Path, names: list[str] | None, look: Look) -> tuple[MaskReader, list[str] | None]:
    """choose_reader, of masks with soft edges. Raises UserError unless two classes are named."""
    target, number = look.many
    if look.two and names and len(names) == 2:
        note_once(
            f"the masks of {root} have soft edges ({number} values in {target}): cut at 128 into {' and '.join(names)}"
        )
        return MaskReader((np.arange(256) >= 128).astype(np.uint8)), names
    classes = (
        "0 and 1, cut at 128, or name two classes in class_name.txt" if look.two else "the classes, without smoothing"
    )
    raise UserError(
        f"{target} has {number} values, most of them only at edges: the masks have soft edges or were saved as JPEG, "
        f"so that values are no classes; write PNG files of {classes}"
    )


def of_ids(
    root: str | Path, names: list[str] | None, masks: Sequence[tuple[Path, ...]], look: Look
) -> tuple[MaskReader, list[str] | None]:
    """choose_reader, of masks whose values are classes; of Cityscapes' label ids those that class_name.txt lists.
    names: all of its lines."""
    classes, labels, largest = without_void(names), cityscapes(), max(look.present - {UNLABELLED}, default=0)
    if not names and largest >= 64 and 8 * len(look.present) < largest:
        note_once(
            f"the masks of {root} have {counted(len(look.present), 'value')} up to {largest}, which are read as class "
            "numbers: if they are grey levels, colors.txt (lines `red green blue name`) gives each its class"
        )
    if masks[0][0].stem.lower().endswith("labelids"):
        if classes and {*classes} <= {name for _, _, name, _ in labels}:
            _, known = to_classes([(id, name) for id, _, name, _ in labels], classes, "Cityscapes' label ids")
            return MaskReader(np.array([known.get(value, UNLABELLED) for value in range(256)], dtype=np.uint8)), classes
        usual = ", ".join(name for _, _, name, evaluated in labels if evaluated)
        note_once(f"{root} has Cityscapes' label ids, each a class; for those evaluated, class_name.txt lists {usual}")
    for number, name in enumerate(classes or ()):
        if name.lower() in IGNORED:
            note_once(
                f"{root}: {name} is class {number}, because class_name.txt has others after it: pixels that are to be "
                "ignored are 255 in the masks"
            )
    if not names or not classes or classes == names:
        return MaskReader(), names
    values = np.arange(256, dtype=np.uint8)
    values[len(classes) : len(names)] = UNLABELLED
    note_once(f"{root}: pixels of {', '.join(names[len(classes) :])} are ignored; with another name they are a class")
    return MaskReader(values), classes


def class_counts(reader: MaskReader, facts: Mapping[Any, Sequence[Sequence[int]]]) -> dict[Any, dict[int, int]]:
    """{masks: {class: number of its pixels}}, without those that are ignored. facts: MaskReader's of (file, ...).
    Raises UserError where masks that were not looked at contradict how all are read."""
    plain = reader.colors is None and reader.objects is None
    problem = conflict_of((files[0], rows) for files, rows in facts.items()) if plain else ""
    if problem:
        raise UserError(f"{problem}: {EQUAL}")
    white = plain and reader.values[128] == 128 and reader.values[UNLABELLED] == 1
    counts: dict[Any, dict[int, int]] = {}
    for files, rows in facts.items():
        found: Counter[int] = Counter()
        for value, number in (row[:2] for row in rows):
            found[int(reader.values[value]) if plain else value] += number
        if white and any(row[0] == 1 for row in rows):
            raise UserError(
                f"{files[0]} has pixels of 1, while the first masks hold 0 and 255 alone: write objects as 1 in all of "
                "them; or if 255 is to be ignored, a third line in class_name.txt says so"
            )
        found.pop(UNLABELLED, None)
        counts[files] = dict(found)
    return counts


def too_large(label: int, classes: Sequence[str], names: Sequence[str] | None) -> str:
    """Why a mask with a pixel of `label` is of no use. names: the classes, where class_name.txt has them."""
    known = f"a pixel is {label}; the classes are 0 to {len(classes) - 1}, and 255 is ignored"
    next_line = names and label == len(names)
    return f"{known}; another line in class_name.txt, void, ignores it" if next_line else known
