"""Which files are a data set's samples: class names, validation's share, and a limit on it."""

import functools
import hashlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from utils import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}  # of pictures, in any case
TRAIN_SHARE = 0.7


class Sample(NamedTuple):
    """A file with its label, or in test mode its id. `name` says which sample it is, wherever the data set lies."""

    path: Path
    target: int | str
    name: str


def choose(mode, find, classes, root, val_data_root=(), val_size=None):
    """The samples of train or val mode, class by class.

    Where val_data_root is given, each mode has all of its own root, else they share `root` 70/30. The share depends on
    names alone: within each class samples are in the order of a hash of their names, so that both parts have their
    share of every class, and adding cats moves no dog.

    Args:
        find: a function from `root` or `val_data_root` to a list of Samples.
        classes: names of the classes.
        val_size: validate on so many samples at most, see `spread`; or None.

    Raises UserError when a class has too few samples.
    """
    roots = val_data_root if mode == "val" and val_data_root else root
    groups = by_class(find(roots), len(classes))
    least, why = (1, "") if val_data_root else (2, ", one to train on and one to validate on, or give --val-data-root")
    for name, group in zip(classes, groups, strict=True):
        if len(group) < least and roots is root:
            raise UserError(
                f"{shown(roots)} has {len(group)} pictures of {name}: {least} of each class are needed{why}"
            )
    if not val_data_root:
        groups = [split(group)[mode] for group in groups]
    if mode == "val" and val_size:
        groups = spread(groups, val_size)
    return [sample for group in groups for sample in group]


def by_class(samples, classes):
    """The samples of each of so many classes, in the order of a hash of their names: a list of lists."""
    groups = [[] for _ in range(classes)]
    for sample in sorted(samples, key=digest):
        groups[sample.target].append(sample)
    return groups


def digest(sample):
    """A number that follows from the sample's name alone, as bytes."""
    return hashlib.sha256(sample.name.lower().encode("utf-8", "surrogateescape")).digest()


def split(group):
    """One class's samples in their order -> {"train": ..., "val": ...}, neither of them empty."""
    cut = min(max(round(TRAIN_SHARE * len(group)), 1), len(group) - 1)
    return {"train": group[:cut], "val": group[cut:]}


def spread(groups, size):
    """The first samples of each class, `size` in all or less: one of every class while that lasts, and then every class
    in proportion to its samples."""
    ranks = []
    for label, group in enumerate(groups):
        ranks += [(rank / len(group), digest(sample), label) for rank, sample in enumerate(group)]
    kept = Counter(label for *_, label in sorted(ranks)[:size])
    return [group[: kept[label]] for label, group in enumerate(groups)]


def class_names(folder):
    """The lines of folder/class_name.txt, which fixes the classes and their order, or None where there is no such file.

    Raises UserError for one that cannot be read or is empty, and for a name that is there twice.
    """
    path = Path(folder, "class_name.txt")
    if not path.is_file():
        return None
    names = [line.strip() for line in read_lines(path) if line.strip()]
    if not names:
        raise UserError(f"{path} is empty: it lists the classes, a name per line")
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice:
        raise UserError(f"{path} lists {twice} twice: a class has one line")
    return names


def read_lines(path):
    """The lines of a UTF-8 text file. Raises UserError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: paths hold anything
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}") from None


def as_list(roots):
    """One folder or file, or a list of them -> a list."""
    return [roots] if isinstance(roots, (str, Path)) else list(roots)


def shown(roots):
    """The roots as text."""
    return ", ".join(map(str, as_list(roots)))


def unique_ids(samples):
    """The samples of test mode as they are. Raises UserError when two have the same id."""
    paths = {}
    for path, id, _ in samples:
        if id in paths:
            raise UserError(f"the id {id} is there twice, {paths[id]} and {path}: there can be one prediction only")
        paths[id] = path
    return samples


@functools.cache
def note(text):
    """Print a note; what train has said of a folder, val does not say again."""
    print(f"note: {text}".encode("utf-8", "backslashreplace").decode())
