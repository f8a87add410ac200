"""Lists of pictures as people have them: how their lines are divided into columns, and where the pictures are."""

import csv
import os
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from utils import UserError
from utils.notices import note_once

from .read import SUFFIXES
from .split import hidden

MARKS = {"\t": "tabs", ";": "semicolons", ",": "commas"}  # what may divide columns, besides white space
FIRST = 20  # rows that show what a list means: a few of their pictures may be missing
# The number of the line, the picture as it is named there, its path, the label or "", the group or "".
Row = tuple[int, str, Path, str, str]


class Places:
    """Where the pictures of a list are. An entry names one by its path, with either slash, with or without the suffix,
    from the list's folder; or from the folder in it that has the list's name; or from another one, two levels deep."""

    def __init__(self, file: Path):
        self.file, self.own, self.pictures = file, file.parent, cache(pictures)

    def look(self, folder: Path, entry: str) -> Path | None:
        """The picture that an entry names in a folder, if it is there. Raises UserError when there are two."""
        path = folder / entry.replace("\\", "/")
        found = [path] if os.path.isfile(path) else self.pictures(path.parent).get(path.name, [])
        if len(found) > 1:
            raise UserError(f"{self.file}: {entry} may be {found[0]} or {found[1]}: write it with its suffix")
        return found[0] if found else None

    def folders(self, entries: Sequence[str]) -> list[Path]:
        """The folders in which any of these entries is: the nearest alone, or all others."""
        others = [*self.own.glob("*/"), *self.own.glob("*/*/")]
        for folders in ([self.own], [self.own / self.file.stem], sorted(one for one in others if not hidden(one.name))):
            found = [folder for folder in folders if any(self.look(folder, entry) for entry in entries)]
            if found:
                return found
        return []

    def finder(self, entries: Sequence[str]) -> Callable[[str], Path]:
        """A function of an entry that returns its path, which need not exist. `entries` show which folder it is. Raises
        UserError when it may be several."""
        if any(os.path.isfile(self.own / entry) for entry in entries):
            return self.own.joinpath
        folders = self.folders(entries) or [self.own]
        if len(folders) > 1:
            raise UserError(
                f"{self.file}: its pictures may be those in {folders[0]} or in {folders[1]}: move it into one of them"
            )
        return lambda entry: self.look(folders[0], entry) or folders[0] / entry


def pictures(folder: Path) -> dict[str, list[Path]]:
    """{stem: the pictures of that name} in a folder; none where it is missing."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in SUFFIXES and not hidden(path.name):
            found.setdefault(path.stem, []).append(path)
    return found


def read_rows(
    file: Path, lines: list[tuple[int, str]], labelled: bool, columns: Sequence[str] = (), group: str | None = None
) -> list[Row]:
    """The rows of a list, of its lines (number, text), without its header. `group` may be another column of a table.

    Where paths from the list's folder are files, a line is `path label`. Else, when a tab, semicolon or comma divides
    all lines into the same number of columns, the list is a table, with the pictures in one column and, if there are
    two, the labels in the other. `columns` decides about a table: both by their names in its header, or by their
    numbers from 1. Raises UserError that names both readings where two are possible.
    """
    places, texts = Places(file), [text for _, text in lines]
    plain = [at_space(text) for text in texts]
    mark, table = as_table(texts)
    columns = columns if labelled else columns[:1]
    if columns and labelled and not table:
        raise UserError(f"{file}: --columns needs a table: tabs, semicolons or commas, equally many in every line")
    usual = any(os.path.isfile(file.parent / path) for path, _ in plain[:FIRST])
    if not table and not usual:
        refuse_uneven(file, lines)
    if not table or (usual and not columns):
        return rows_of(file, lines, plain, 0, 1, places, ())
    path, label = pick(file, table, labelled, columns, places)
    rows = rows_of(file, lines, table, path, label, places, columns, group)
    titled = len(table) - len(rows)
    pairs = all(right and not left.endswith(mark) for left, right in plain[titled:])  # white space divides them, too
    if pairs and mark != "\t" and not columns and '"' not in texts[-1]:
        (number, text), (left, right) = lines[titled], plain[titled]
        names = table[0] if titled else [str(column) for column in range(1, len(table[0]) + 1)]
        names = [names[column] for column in (path, label) if column >= 0]
        raise UserError(
            f"{file}:{number}: `{text}` may be the path `{left}` and the label `{right}`, divided by white space, or "
            f"divided by {MARKS[mark]}: for these give --columns={','.join(names)}; a tab divides safely"
        )
    return rows


def at_space(text: str) -> tuple[str, str]:
    """A line -> (path, label or ""). The label is what follows the last tab, or without one the last white space,
    unless it ends with a picture's suffix."""
    words = text.rsplit("\t" if "\t" in text else None, 1)
    if len(words) < 2 or Path(words[1]).suffix.lower() in SUFFIXES:
        return text, ""
    return words[0].strip(), words[1].strip()


def as_table(texts: list[str]) -> tuple[str, list[list[str]]]:
    """(what divides all lines into the same number of columns, the rows), or ("", []). Columns whose first cell is
    empty are left out: the numbers of the rows, or a mark at the end of each line."""
    for mark in MARKS:
        try:
            rows = list(csv.reader(texts, delimiter=mark, skipinitialspace=True))
        except csv.Error:  # a cell longer than a page
            continue
        if len(rows) == len(texts) and len(rows[0]) > 1 and len({len(row) for row in rows}) == 1:
            kept = [column for column, cell in enumerate(rows[0]) if cell.strip()]
            return mark, [[row[column].strip() for column in kept] for row in rows]
    return "", []


def refuse_uneven(file: Path, lines: list[tuple[int, str]]) -> None:
    """Raise UserError when a list is nearly a table: every line is divided, but not into the same number of columns."""
    for mark, name in MARKS.items():
        counts = [text.count(mark) for _, text in lines]
        uneven = next((place for place, count in enumerate(counts) if count != counts[0]), None)
        if all(counts) and uneven is not None:
            raise UserError(
                f"{file}:{lines[uneven][0]}: {counts[uneven]} {name} divide this line, {counts[0]} line {lines[0][0]}: "
                f'put cells with {name} in them between "quotes"'
            )


def pick(file: Path, table: list[list[str]], labelled: bool, columns: Sequence[str], places: Places) -> tuple[int, int]:
    """(the column with the pictures, the one with the labels or -1). Raises UserError when that is not clear."""
    head, count = table[0], len(table[0])
    if columns:
        found = [int(name) - 1 if name.isdecimal() else head.index(name) if name in head else -1 for name in columns]
        if not all(0 <= column < count for column in found) or len(found) != 1 + labelled:
            raise UserError(
                f"{file}: --columns={','.join(columns)} has to name the pictures and the labels: the columns are "
                f"{', '.join(head)}, or 1 to {count}"
            )
        entries = [row[found[0]] for row in table]
        if not places.folders(entries):
            raise UserError(
                f"{file}: --columns={','.join(columns)}: the column {columns[0]} names no pictures: there is no file "
                f"{entries[-1]}, with or without suffix, beside the list; the pictures come first, then the labels"
            )
        return found[0], found[-1]
    cells = [[row[column] for row in table[1:] or table] for column in range(count)]
    named = [column for column in range(count) if places.folders(cells[column][:FIRST])]
    if len(named) > 1:  # labels 1, 2, ... may be names of pictures, too, but a picture has one row
        named = [column for column in named if len(set(cells[column])) == len(cells[column])] or named
    if not named:
        raise UserError(
            f"{file}: none of the columns {', '.join(head)} names pictures: there is no file {cells[0][0]}, with or "
            f"without suffix, in {file.parent} and the folders in it"
        )
    if len(named) != 1 or (labelled and count > 2):
        which = f"{head[named[0]]} has the pictures" if len(named) == 1 else "which has the pictures is not clear"
        raise UserError(
            f"{file}: the columns are {', '.join(head)}; {which}: give --columns=id,label, with two of their names or "
            f"numbers (1 to {count})"
        )
    return named[0], 1 - named[0] if count == 2 else -1


def rows_of(
    file: Path,
    lines: list[tuple[int, str]],
    cells: Sequence[Sequence[str]],
    path: int,
    label: int,
    places: Places,
    columns: Sequence[str],
    group: str | None = None,
) -> list[Row]:
    """The Rows of a list whose lines are divided into these cells; `path` and `label` are the columns. The first line
    is a header if it has the names `columns`, or names no picture where others do; a note says so. `group` is a
    column by its name in the header, or its number."""
    entries = [row[path] for row in cells]
    find = places.finder(entries[:FIRST])
    titled = not all(name.isdecimal() for name in columns) or not (
        re.search(r"\d", entries[0])
        or Path(entries[0]).suffix.lower() in SUFFIXES
        or os.path.isfile(find(entries[0]))
        or not any(os.path.isfile(find(entry)) for entry in entries[:FIRST])
    )
    if titled:
        note_once(f"{file}:{lines[0][0]} is the header, {', '.join(cells[0])}, and no picture")
    names = [*(cells[0] if titled else ()), *map(str, range(1, len(cells[0]) + 1))]  # each column has two
    by = names.index(group) % len(cells[0]) if group in names else -1
    return [
        (number, entry, find(entry), row[label] if label >= 0 else "", row[by] if by >= 0 else "")
        for (number, _), entry, row in list(zip(lines, entries, cells, strict=True))[titled:]
    ]
