"""Which files are a data set's samples: class names, and the split into train and val."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from utils import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}  # of pictures, in any case
TRAIN_SHARE = 0.7
Roots = str | Path | Sequence[str | Path]  # one folder or file, or several


class Sample(NamedTuple):
    """A file with its target: a label, in test mode an id, for MaskFolder a mask. `name` identifies the sample,
    wherever the data set is."""

    path: Any
    target: Any
    name: str


def choose(
    mode: str,
    find: Callable[[Roots], list[Sample]],
    classes: Sequence[str],
    root: Roots,
    val_data_root: Roots = (),
    val_size: int | None = None,
) -> list[Sample]:
    """The samples of train or val mode, class by class.

    With val_data_root each mode has all of its own root, else they share `root` 70/30. The split depends only on names:
    within each class samples are ordered by a hash of their names, so that both parts get their share of every class,
    and adding cats moves no dog.

    Args:
        find: a function from `root` or `val_data_root` to a list of Samples.
        classes: names of the classes.
        val_size: maximum number of samples in val mode, see `spread`; or None.

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


def by_class(samples: list[Sample], classes: int) -> list[list[Sample]]:
    """The samples of each class, ordered by a hash of their names: a list of `classes` lists."""
    groups: list[list[Sample]] = [[] for _ in range(classes)]
    for sample in sorted(samples, key=digest):
        groups[sample.target].append(sample)
    return groups


def digest(sample: Any) -> bytes:
    """A hash of the sample's name alone."""
    return hashlib.sha256(sample.name.lower().encode("utf-8", "surrogateescape")).digest()


def split(group: list[Any]) -> dict[str, list[Any]]:
    """One class's samples in order -> {"train": ..., "val": ...}, neither of them empty."""
    cut = min(max(round(TRAIN_SHARE * len(group)), 1), len(group) - 1)
    return {"train": group[:cut], "val": group[cut:]}


def spread(groups: list[list[Any]], size: int) -> list[list[Any]]:
    """The first samples of each class, at most `size` in all: first one of every class, then every class in proportion
    to its samples."""
    ranks: list[tuple[float, bytes, int]] = []
    for label, group in enumerate(groups):
        ranks += [(rank / len(group), digest(sample), label) for rank, sample in enumerate(group)]
    kept = Counter(label for *_, label in sorted(ranks)[:size])
    return [group[: kept[label]] for label, group in enumerate(groups)]


def class_names(folder: str | Path) -> list[str] | None:
    """The lines of folder/class_name.txt, which fixes the classes and their order, or None if there is no such file.

    Raises UserError when it cannot be read, is empty, or lists a name twice.
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


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file. Raises UserError when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: paths hold anything
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}") from None


def as_list(roots: Roots) -> list[str | Path]:
    """One folder or file, or a list of them -> a list."""
    return [roots] if isinstance(roots, (str, Path)) else list(roots)


def shown(roots: Roots) -> str:
    """The roots as text."""
    return ", ".join(map(str, as_list(roots)))


def unique_ids(samples: list[Sample]) -> list[Sample]:
    """The samples of test mode, unchanged. Raises UserError when two have the same id."""
    paths: dict[Any, Path] = {}
    for path, id, _ in samples:
        if id in paths:
            raise UserError(f"the id {id} is there twice, {paths[id]} and {path}: there can be one prediction only")
        paths[id] = path
    return samples


def folder_files(roots: Roots, why: str) -> list[Path]:
    """All files directly in the folders `roots`, sorted by name. For a missing folder a UserError ends with `why`."""
    files: list[Path] = []
    for root in as_list(roots):
        if not Path(root).is_dir():
            raise UserError(f"the folder {root} does not exist: {why}")
        files += sorted(path for path in Path(root).iterdir() if path.is_file())
    return files


def balanced(targets: torch.Tensor, how: str, generator: torch.Generator) -> torch.Tensor:
    """The samples of one epoch with classes evened out, int64 indices drawn from `generator`.

    Class c gets a share in proportion to 1 (mean), log(N_c + 1) or sqrt(N_c + 1) of about as many samples as there are.
    A large class gets random samples, a small one whole copies and the rest at random. targets: int64 [N].
    """
    classes = targets.argsort(stable=True).split(targets.bincount().tolist())  # the samples of each class
    share = {"mean": lambda n: 1.0, "log": lambda n: math.log(n + 1), "sqrt": lambda n: math.sqrt(n + 1)}
    shares = [share[how](len(members)) for members in classes]
    drawn: list[torch.Tensor] = []
    for members, part in zip(classes, shares, strict=True):
        copies, rest = divmod(math.ceil(len(targets) * part / sum(shares)), len(members))
        drawn += [members] * copies + [members[torch.randperm(len(members), generator=generator)[:rest]]]
    samples = torch.cat(drawn)
    return samples[torch.randperm(len(samples), generator=generator)]
