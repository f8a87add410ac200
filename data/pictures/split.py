"""Which files are a data set's samples: class names, and the split into train and val."""

import contextlib
import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from utils import UserError
from utils.notices import counted
from utils.options.kinds import nearest

from .read import SUFFIXES

# What systems leave in folders, besides names that begin with a dot, as a Mac's ._name; lower case.
LEFT_BY_SYSTEMS = {"thumbs.db", "desktop.ini", "@eadir", "__macosx", "$recycle.bin", "system volume information"}
LEFT_BY_SYSTEMS |= {"#recycle", "lost+found", "icon\r"}
TRAIN_SHARE = 0.7
Roots = str | Path | Sequence[str | Path]  # one folder or file, or several


class RootError(UserError):
    """A root of a data set that is missing, of the wrong kind or empty; data/build.py adds the option that names it."""

    def __init__(self, root: str | Path, message: str):
        super().__init__(message)
        self.root = str(root)


class Sample(NamedTuple):
    """A file with its target: a label, in test mode an id, for MaskFolder a mask. `name` identifies the sample,
    wherever the data set is."""

    path: Any
    target: Any
    name: str


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


def part_of(samples: list[Any], mode: str, val_data_root: Roots, val_size: int | None, few: str) -> list[Any]:
    """The samples of train or val mode, of those in its own root, in order. Without val_data_root both share them;
    `few` begins the error when there are not two. val_size: maximum number of samples in val mode, or None."""
    if not val_data_root:
        if len(samples) < 2:
            raise UserError(f"{few}: two are needed, or give --val-data-root")
        samples = split(samples)[mode]
    return samples[: val_size if mode == "val" else None]


def spread(groups: list[list[Any]], size: int) -> list[list[Any]]:
    """The first samples of each class, at most `size` in all: first one of every class, then every class in proportion
    to its samples."""
    ranks = sorted(
        (rank / len(group), digest(sample), label)
        for label, group in enumerate(groups)
        for rank, sample in enumerate(group)
    )
    kept = Counter(label for *_, label in ranks[:size])
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
    """The lines of a text file in UTF-8, or in UTF-16 with its mark. Bytes of another encoding stay as they are, as in
    names of files, which they then fit. Raises UserError when it cannot be read."""
    try:
        content = path.read_bytes()
        wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = content.decode("utf-16") if wide else content.decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-16 text: {error.reason} at byte {error.start}") from None
    if "\0" in text:
        raise UserError(f"{path} is no text: it has a zero at character {text.index(chr(0))}")
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")  # not splitlines: paths hold anything


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
        if paths.setdefault(id, path) is not path:
            raise UserError(f"{paths[id]} and {path} have the same id, {id}: rename or remove one of them")
    return samples


def as_folder(root: str | Path, why: str) -> Path:
    """A root as a Path. Raises RootError where it is no folder; for a missing one that ends with `why`."""
    path = Path(root)
    if path.is_file():
        hint = path.parent if path.suffix.lower() in SUFFIXES else "one; --dataset=ListFile takes lists of pictures"
        raise RootError(root, f"{root} is a file, and a folder is needed: give {hint}")
    if not path.is_dir():
        near = ""
        with contextlib.suppress(OSError):
            near = nearest(path.name, [one.name for one in path.parent.iterdir() if one.is_dir()])[2:]
        raise RootError(root, f"there is no folder {root}{f' ({near})' if near else ''}: {why}")
    return path


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is hidden or left by a system: no data set sees it."""
    return name.startswith(".") or name.lower() in LEFT_BY_SYSTEMS


def folder_files(roots: Roots, why: str) -> list[Path]:
    """All files directly in the folders `roots` but hidden ones, sorted by name. Raises RootError, see as_folder."""
    paths = (path for root in as_list(roots) for path in sorted(as_folder(root, why).iterdir()))
    return [path for path in paths if path.is_file() and not hidden(path.name)]


def has_some(roots: Roots, pattern: str) -> str:
    """For messages: the first subfolder of the folders `roots` with a file whose name matches the pattern, or ""."""
    below = (path for root in as_list(roots) for path in sorted(Path(root).glob("*/*")))
    return next(
        (f"; {path.parent} has some: give that" for path in below if re.fullmatch(pattern, path.name, re.I)), ""
    )


def picture_files(roots: Roots, why: str) -> list[Path]:
    """The pictures among folder_files. Raises RootError, which ends with `why`, when there is none."""
    files = folder_files(roots, why)
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not paths:
        others = counted(len(files), "other file")
        raise RootError(as_list(roots)[0], f"no picture in {shown(roots)} ({others}): {why}")
    return paths


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
