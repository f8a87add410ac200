"""Checkpoint files: proven whole before they take the place of an older one, and again before they are read."""

import contextlib
import errno
import hashlib
import http.client
import os
import struct
import urllib.error
import zipfile
from pathlib import Path
from zlib import crc32

import torch

from .errors import ModelError

# What stands behind the file that torch.save writes, where torch.load does not look: the CRC-32 of all before it, and
# a mark. A CRC finds every single damaged byte, and is several times as fast as SHA-256.
TRAILER, MARK = struct.Struct("<I8s"), b"\x89hearth\n"
PIECE = 1 << 20  # bytes that are read at once


class Summed:
    """A file to write to that keeps the CRC-32 of what went through; torch.save writes from the start to the end."""

    def __init__(self, file):
        self.file, self.crc = file, 0

    def write(self, data):
        self.crc = crc32(data, self.crc)
        return self.file.write(data)

    def flush(self):
        self.file.flush()


def write_checkpoint(content, path, previous=None):
    """Write a dict of tensors and plain values, with `weights` among its keys, to the file `path`.

    The file appears whole or not at all: it is written beside its place, flushed, read again and renamed. With
    `previous`, the file that was at `path` gets that name.
    Raises ModelError when a weight is not finite, OSError when the disk does not take the file; the old one stays then.
    """
    for name, value in content["weights"].items():
        # The sum, which may overflow, takes a tenth of the time.
        if not value.sum().isfinite() and not value.isfinite().all():
            raise ModelError(f"{path} is not written, its weight {name} is not finite")
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w+b") as file:
            summed = Summed(file)
            with without_zip_sums():
                torch.save(content, summed)
            file.write(TRAILER.pack(summed.crc, MARK))
            file.flush()
            os.fsync(file.fileno())
            if not is_whole(file):
                raise OSError(errno.EIO, "reads differently from what was written")
        if previous and path.exists():
            keep_as(path, previous)
        os.replace(temporary, path)
        flush_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer turns the disk's error into one of its own
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from None
    finally:
        with contextlib.suppress(OSError):  # in a folder that has become read-only it stays until the next start
            temporary.unlink()


@contextlib.contextmanager
def without_zip_sums():
    """Let torch.save leave out the sums of its own: the CRC over the whole file finds all that they would."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def keep_as(path, previous):
    """Give a file a second name, in the place of what had it; a file that has several can be replaced without a gap."""
    previous.unlink(missing_ok=True)
    try:
        os.link(path, previous)
    except OSError:  # a file system on which a file has one name
        os.replace(path, previous)


def flush_folder(folder):
    """Have a rename survive a power cut, where the system can do that."""
    with contextlib.suppress(OSError):  # not every file system can, nor Windows: the file is there all the same
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def is_whole(file):
    """Whether an open checkpoint is as it was written, told before anything in it is used; left at its start.

    A file without our trailer is somebody else's: a zip file that torch.save wrote has sums of its own, and any other
    is left to torch.load. A zip file that ends otherwise was cut off, or is ours and damaged in its last bytes.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 22))
    end = file.read()
    file.seek(0)
    if end.endswith(MARK):
        found, left, buffer = 0, size - TRAILER.size, memoryview(bytearray(PIECE))
        while count := file.readinto(buffer[:left]):
            found, left = crc32(buffer[:count], found), left - count
        whole = left == 0 and found == TRAILER.unpack(end[-TRAILER.size :])[0]
    elif file.read(2) == b"PK":
        with zipfile.ZipFile(file) as archive:
            whole = end.startswith(b"PK\5\6") and archive.testzip() is None
    else:
        whole = True
    file.seek(0)
    return whole


def read_checkpoint(path):
    """The dict that a checkpoint file holds, on the CPU; `weights` is always one of its keys.

    Only tensors and plain values are read: a file that would run code is refused. Raises ModelError.
    """
    try:
        if str(path).startswith(("https://", "http://")):
            # Kept under the whole address: many have a best.pth.
            file = f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}_{Path(path).name}"
            content = torch.hub.load_state_dict_from_url(
                str(path), file_name=file, map_location="cpu", weights_only=True
            )
        else:
            with open(path, "rb") as file:
                if not is_whole(file):
                    raise EOFError
                content = torch.load(file, map_location="cpu", weights_only=True)
    except (urllib.error.URLError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ModelError(f"{path} cannot be downloaded ({reason}): fetch it elsewhere and give the file") from None
    except (OSError, MemoryError) as error:
        raise ModelError(f"checkpoint {path} cannot be read: {getattr(error, 'strerror', '') or error}") from None
    except Exception:  # torch raises whatever its readers raise: RuntimeError, EOFError, UnpicklingError, KeyError ...
        raise ModelError(
            f"{path} is not a whole checkpoint (cut off, damaged, or another thing): take another one"
        ) from None
    if isinstance(content, dict) and content and all(isinstance(value, torch.Tensor) for value in content.values()):
        content = {"weights": content}
    weights = content.get("weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()
    ):
        raise ModelError(f"{path} holds no weights that hearth knows: a file of model.save() or a state dict is needed")
    return content
