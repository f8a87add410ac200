"""Files that appear whole or not at all, locks that end with their process, and names that are free."""

import contextlib
import csv
import errno
import itertools
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from . import UserError

try:
    import fcntl
except ImportError:  # Windows has no such lock: two processes may write one run, and nothing is packed
    fcntl = None  # type: ignore[assignment]

# File names need not be UTF-8: they are written as they are.
TEXT: dict[str, Any] = {"mode": "w", "encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
NO_FILE = "it is no regular file"  # but a device or a pipe, whose place a renamed file would take
SEPARATORS = tuple(mark for mark in (os.sep, os.altsep) if mark)


def check_writable(path: str | Path, option: str) -> None:
    """Raise UserError, before hours of work are spent on it, when the file `path`, which `option` named, could not be
    written."""
    folder, there, problem = Path(os.path.realpath(path)).parent, os.path.exists(path), ""
    if os.path.isdir(path) or str(path).endswith(SEPARATORS):
        problem = "it is a folder"
    elif there and not os.path.isfile(path):
        problem = NO_FILE
    elif not folder.is_dir():
        problem = f"there is no folder {folder}"
    elif there and not os.access(path, os.W_OK):
        problem = "no permission to write it"
    else:
        try:
            tempfile.TemporaryFile(dir=folder).close()  # not access(): /proc grants root all, and takes no file
        except OSError as error:
            problem = f"no file can be made in {folder} ({error.strerror})"
    if problem:
        raise UserError(f"{option}={path} cannot be written, {problem}: name another file")


def mine(path: Path) -> bool:
    """Whether a file or folder, or what a link leads to, is this process's user's."""
    return not hasattr(os, "getuid") or path.stat().st_uid == os.getuid()


def private_folder() -> Path:
    """A folder for temporary things, named by the user's number, that this user alone can enter. Raises UserError where
    one of that name is anything else."""
    folder = Path(tempfile.gettempdir(), f"hearth_{os.getuid() if hasattr(os, 'getuid') else ''}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or not mine(folder) or (os.name == "posix" and found.st_mode & 0o077):
        raise UserError(f"{folder} is not a folder of yours alone (mode 700): remove it, or set TMPDIR")
    return folder


def write_csv(path: str | Path, header: Iterable[Any], rows: Iterable[Iterable[Any]]) -> None:
    """write_atomically a CSV file."""

    def write(file: IO[str]) -> None:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)

    write_atomically(path, write)


def write_atomically(
    path: str | Path, write: Callable[[IO[Any]], Any], binary: bool = False, previous: Path | None = None
) -> None:
    """Call write(file) on a file beside `path`, flush it to the disk and rename it to `path`, or what that leads to.

    A reader of `path` finds the old content or the new one, also after a power cut; on an error the old one stays.

    Args:
        write: gets the open file, text or with `binary` bytes (which it may read again).
        previous: a second path that gets the old content.

    Raises OSError, whose `filename` is `path`, when the disk does not take the file, or `path` is a device or a pipe.
    """
    given, path = str(path), Path(os.path.realpath(path))  # a link stays, as one of /dev has to
    if os.path.exists(given) and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, NO_FILE, given)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, **({"mode": "w+b"} if binary else TEXT)) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if previous and path.exists():
            keep_as(path, previous)
        os.replace(temporary, path)
        flush_folder(path.parent)
    except OSError as error:
        error.filename = given  # a full disk's error names no file
        raise
    finally:
        with contextlib.suppress(OSError):  # in a folder that has become read-only it stays until the next start
            temporary.unlink()


def keep_as(path: Path, previous: Path) -> None:
    """Give a file a second name, replacing what had it; a file with several names can be replaced without a gap."""
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError:  # a file system on which a file has one name
        os.replace(path, previous)


def flush_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system can do that."""
    with contextlib.suppress(OSError):  # some file systems and Windows cannot: the file is there all the same
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def lock(file: IO[Any], wait: bool = False) -> bool:
    """Lock an open file for this process alone, not for its children; False when another process holds it.

    The lock is lockf's and not flock's, which a forked DataLoader worker would inherit and keep. Raises OSError where
    the file system cannot lock.
    """
    try:
        if fcntl:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            error.filename = file.name  # for the line that the user reads
            raise
        return False


def locked(path: str | Path) -> bool:
    """Whether another process holds the lock on a file; False where no lock exists (Windows). Raises OSError."""
    with open(path, "rb") as file:
        try:
            if fcntl is not None:  # a shared lock needs no right to write
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


def numbered(path: str | Path, suffix: str = "") -> Iterator[Path]:
    """`path`, path_2, path_3, ..., each with the suffix: names to try until one is free."""
    yield Path(f"{path}{suffix}")
    for count in itertools.count(2):
        yield Path(f"{path}_{count}{suffix}")


def megabytes(size: float) -> str:
    """Bytes -> "275.4 MB"."""
    return f"{size / 1e6:,.1f} MB"
