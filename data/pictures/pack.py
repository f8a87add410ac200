"""Pictures decoded once: <name>.u8 holds only their pixels, uint8 [N, H, W, C]; <name>.json is its index: the source
files, their state when they were packed, checksums, and which of them the system refused to give."""

import contextlib
import errno
import functools
import hashlib
import json
import math
import os
import shlex
import shutil
import time
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tqdm import tqdm

from utils import UserError
from utils.files import fcntl, lock, megabytes, write_atomically
from utils.notices import counted, note, note_once

from .images import Images, LazyImages, in_threads, reason
from .read import decoders

VERSION = 3  # of the two files, and of what is decoded; a function that reads may have one of its own, for its facts
UNUSED = 30  # days without use after which a pack is named
OWN_FAULTS = errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN  # of this process or machine, not of a file
DISK_SHARE = 0.5  # of the disk's free space, the largest part that a pack may take


class NothingToPack(OSError):
    """Not one picture can be decoded."""


class PackedImages(Images):
    """Rows in a file. A forked worker reads the same open file, an unpickled PackedImages opens it again.

    They are read and not memory-mapped: a map takes 1.2 to 1.6 times as long and as much memory as was read, or 2 to 5
    times as long without that memory (benchmarks/pack.py); and a failing disk would kill the process instead of raising
    OSError.

    Args:
        path: the file.
        shape: (H, W, C) of each row.
        places: the place of each row in the file, a sequence of int.
        stamp: the [size, modification time in ns] that the file must have, or None.

    Raises OSError when it cannot be opened, UserError when it has changed since.
    """

    def __init__(self, path: Path, shape: Sequence[int], places: Sequence[int], stamp: list[int] | None = None):
        super().__init__(places, shape)
        self.path, self.file = path, os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.file)
        status = os.fstat(self.file)
        self.stamp = [status.st_size, status.st_mtime_ns]
        if self.stamp != (stamp or self.stamp):
            raise UserError(f"{path} was changed while it was in use: start again")

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedImages, (self.path, self.shape[1:], self.sources, self.stamp)

    def __getitem__(self, indices: list[int]) -> torch.Tensor:
        rows = np.empty((len(indices), *self.shape[1:]), dtype=np.uint8)
        for row, index in zip(rows, indices, strict=True):
            try:
                size = os.preadv(self.file, [row], self.sources[index] * row.nbytes)
            except OSError as error:
                raise UserError(f"{self.path} cannot be read: {error.strerror}; --pack=False avoids it") from None
            if size < row.nbytes:
                raise UserError(f"{self.path} was truncated while it was read: start again, and it is made again")
        return torch.from_numpy(rows)


def open_pack(path: Path, lazy: LazyImages, also: Sequence[Any]) -> tuple[PackedImages, list[Any]]:
    """open_images from the pack whose name begins with `path`; it is made if necessary. Raises OSError on failure."""
    if not fcntl:
        raise OSError("this system cannot lock files")
    fit = f"{lazy.read.__name__} {lazy.shape}"
    version = getattr(getattr(lazy.read, "func", lazy.read), "version", VERSION)  # of what `reader` wraps, too
    sources = [*lazy.sources, *also]
    names, key = fingerprints(sources, fit, version)
    path = path.with_name(f"{path.name}_{names}.u8")

    def readable(number: int) -> bool:
        return lazy.attempt(sources[number])[0] is not None

    found = load(path, key, readable)
    if not found:
        path.parent.mkdir(parents=True, exist_ok=True)
        with only_packer(path) as file:  # another process may have been first
            index = {"version": version, "key": key, "fit": fit, "decoders": decoders()}
            found = load(path, key, readable) or make(file, path, index, lazy, also)
        name_unused(path.parent)
    with contextlib.suppress(OSError):  # in a read-only folder it cannot be noted
        os.utime(path.with_suffix(".json"))  # when it was used last
    return found


def name_unused(folder: Path) -> None:
    """A note that names the packs in a folder that were not used for UNUSED days, and the command that removes them."""
    oldest = time.time() - UNUSED * 24 * 3600
    unused = [index for index in sorted(folder.glob("*.json")) if index.stat().st_mtime < oldest]
    size = sum(pack.stat().st_size for index in unused if (pack := index.with_suffix(".u8")).exists())
    if unused:
        what = f"{counted(len(unused), 'pack')} in {folder}, {megabytes(size)}, not used for {UNUSED} days"
        note_once(
            f"{what}; to remove: rm {' '.join(shlex.quote(str(index.with_suffix(''))) + '.*' for index in unused)}"
        )


def fingerprints(sources: Sequence[Any], options: str, version: int) -> tuple[str, str]:
    """(8 digits of a hash of the files' paths and the options, a hash of these and the files' sizes and times)."""
    names, state = hashlib.sha256(options.encode()), hashlib.sha256(f"{version} {options}".encode())
    for path in (path for source in sources for path in files_of(source)):
        text = os.fsencode(os.path.abspath(path)) + b"\0"
        names.update(text)
        # A file that is missing counts by its path alone: the key changes when it appears.
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(path)
            text += f"{status.st_size} {status.st_mtime_ns}\0".encode()
        state.update(text)
    return names.hexdigest()[:8], state.hexdigest()


def files_of(source: Any) -> tuple[Any, ...]:
    """The files of a source, which is one or a tuple of them."""
    return source if isinstance(source, tuple) else (source,)


def load(
    path: Path, key: str, readable: Callable[[int], bool] = lambda number: False
) -> tuple[PackedImages, list[Any]] | None:
    """(PackedImages, facts), or None if there is no pack with this key, or it lacks pictures and was made with other
    decoders, which may read them now, or the system did not give a source that is readable now, by its number.

    If the file was changed or copied after it was packed, its rows have to match their checksums.
    """
    index = read_index(path)
    if index is None or index["key"] != key or not path.exists():
        return None
    if None in index["checksums"] and index["decoders"] != decoders():
        return None
    if any(map(readable, index.get("refused", ()))):
        return None
    whole = np.array([value is not None for value in index["checksums"]])
    images = PackedImages(path, index["shape"][1:], np.where(whole, whole.cumsum() - 1, -1).tolist())
    if images.stamp != index["stamp"]:  # changed or copied
        if not intact(images, index):
            return None
        with contextlib.suppress(OSError):
            write_index(path, {**index, "stamp": images.stamp})
    return images, index["facts"]


def intact(images: PackedImages, index: dict[str, Any]) -> bool:
    """Whether the file has the right size, and every row the right checksum."""
    rows = [(row, value) for row, value in enumerate(index["checksums"]) if value is not None]
    right = in_threads(lambda one: zlib.crc32(images[[one[0]]].numpy().data) == one[1], rows)
    return images.stamp[0] == math.prod(index["shape"]) and all(right)


@contextlib.contextmanager
def only_packer(path: Path) -> Iterator[IO[bytes]]:
    """The open temporary file for a pack at `path`, for one process at a time; another one prints a note and waits.

    The file itself is locked: if its process is killed, the next one gets the lock and overwrites the file. It is
    removed at the end, unless it has become the pack.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    while True:
        with open(temporary, "r+b", opener=lambda path, flags: os.open(path, flags | os.O_CREAT, 0o666)) as file:
            if not lock(file):
                note(f"another process is packing {path}: waiting for it")
                lock(file, wait=True)
            if same_file(file, temporary):  # else it became the pack or was removed in the meantime
                try:
                    sweep(path, temporary)
                    yield file
                finally:
                    if same_file(file, temporary):
                        temporary.unlink()
                return


def same_file(file: IO[bytes], path: Path) -> bool:
    """Whether the open file is the one at `path`."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    return False


def sweep(path: Path, temporary: Path) -> None:
    """Remove what killed processes left: files of this pack's index, and other packs that no process is writing."""
    for left in [*path.parent.glob(f"{path.stem}.json.*.tmp"), *path.parent.glob("*.u8.tmp")]:
        if left != temporary:
            with contextlib.suppress(OSError), open(left, "r+b") as file:
                if lock(file):
                    left.unlink()


def make(
    file: Any, path: Path, index: dict[str, Any], lazy: LazyImages, also: Sequence[Any]
) -> tuple[PackedImages, list[Any]]:
    """Decode everything into the open temporary file, make it the pack and load it. On failure it raises OSError.

    An old pack cannot be used any more. It is removed first, to free space.
    """
    begin = time.monotonic()
    if path.with_suffix(".json").exists():
        old = read_index(path)
        why = "it lacks pictures that could not be read" if old and old.get("refused") else "it is damaged"
        why = "the pictures have changed" if old and old["key"] != index["key"] else why
        why = "other decoders are installed" if old and old.get("decoders") != index["decoders"] else why
        why = "it is of an older version" if old and old["version"] != index["version"] else why
        note(f"{path} is made again: {why}")
    for part in (path.with_suffix(".json"), path):
        part.unlink(missing_ok=True)

    file.truncate(0)
    size, free = math.prod(lazy.shape), shutil.disk_usage(path.parent).free
    if size > DISK_SHARE * free:
        raise OSError(f"it would take {megabytes(size)}, more than half of the {megabytes(free)} free in {path.parent}")
    if hasattr(os, "posix_fallocate"):  # a full disk, a quota or a limit fails now, not in an hour
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not supported by this file system
                raise
    checksums: list[int | None] = []
    facts, refused = [], []
    sources = [*lazy.sources, *also]
    found = in_threads(functools.partial(decode, lazy), sources)
    with contextlib.closing(found):
        for row, fact, here in tqdm(found, "packing", len(sources), unit=" pictures", leave=False, disable=None):
            refused += [] if here else [len(facts)]
            facts.append(fact)
            if len(facts) <= len(lazy.sources):
                checksums.append(None if row is None else zlib.crc32(row))
                file.write(b"" if row is None else row)
    file.truncate()
    os.fsync(file.fileno())
    count = len(checksums) - checksums.count(None)
    if not count:
        raise NothingToPack("not one picture can be decoded")
    status = os.fstat(file.fileno())
    shape, stamp = [count, *lazy.shape[1:]], [status.st_size, status.st_mtime_ns]
    index |= {"shape": shape, "stamp": stamp, "checksums": checksums, "facts": facts, "refused": refused}
    write_index(path, index)
    os.replace(file.name, path)  # now the pack exists
    made = load(path, index["key"])
    if not made:
        raise OSError(f"{path} cannot be read back")
    size, seconds = megabytes(status.st_size), time.monotonic() - begin
    note(f"packed {counted(count, 'picture')} into {path}, {size}, in {seconds:.1f} s")
    return made


def decode(lazy: LazyImages, source: Any) -> tuple[np.ndarray | None, Any, bool]:
    """(image, fact, True) of a source; (None, why, False) where the system does not give the file, which may change.
    Raises OSError where the fault is not the file's."""
    try:
        return *lazy.attempt(source, strict=True), True
    except OSError as error:
        if error.errno in OWN_FAULTS:
            raise
        return None, reason(error, source), False


def write_index(path: Path, index: dict[str, Any]) -> None:
    """Write the index of the pack at `path`, with its own checksum in the first line."""
    text = json.dumps(index)[1:]
    head = f'{{"checksum": {zlib.crc32(text.encode())},\n'
    write_atomically(path.with_suffix(".json"), lambda file: file.write(head + text))


def read_index(path: Path) -> dict[str, Any] | None:
    """The index of the pack at `path`, or None if it is missing or damaged."""
    try:
        text = path.with_suffix(".json").read_text(encoding="ascii")
        index = json.loads(text)
        return index if index.pop("checksum") == zlib.crc32(text.partition("\n")[2].encode()) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # missing, or not written by us
        return None


def packed_file(dataset: Any) -> Path:
    """The file from which a data set reads its pictures. Raises UserError when they are not packed."""
    images = getattr(dataset, "images", None)
    if not isinstance(images, PackedImages):
        raise UserError(f"{type(dataset).__name__} has no picture files to pack, or a note above says why they are not")
    return images.path
