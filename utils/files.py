"""Files that appear whole or not at all."""

import csv
import os
from pathlib import Path

from . import UserError

# File names need not be UTF-8: they are written as they are.
TEXT = {"mode": "w", "encoding": "utf-8", "errors": "surrogateescape", "newline": ""}


def check_writable(path):
    """Raise UserError, before hours of work are spent on it, when the file `path` could not be written."""
    folder = Path(path).absolute().parent
    if Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(f"{path} cannot be written: it is a folder, or {folder} does not exist or is read-only")


def write_csv(path, header, rows):
    """write_atomically a CSV file."""

    def write(file):
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)

    write_atomically(path, write)


def write_atomically(path, write, binary=False):
    """Call write(file) on a file beside `path`, flush it to the disk and rename it to `path`.

    Whoever reads `path` finds the old content or the new one, also after a power cut; on an error the old one stays.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, **({"mode": "wb"} if binary else TEXT)) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # a full disk's error names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def megabytes(size):
    """Bytes -> "275.4 MB"."""
    return f"{size / 1e6:,.1f} MB"
