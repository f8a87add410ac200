"""Checkpoint files: proven whole before they replace an older one, and again before they are read."""

import errno
import os
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any
from zlib import crc32

import torch
from torch.utils.serialization import config as serialization

from utils import VERSION, UserError
from utils.files import write_atomically

from . import inert
from .others import downloaded, others_weights, part_of, read_safetensors, what_it_is

FORMAT = 2  # of what a checkpoint holds; files without a number are of format 1
# Behind the file that torch.save writes, where torch.load does not look: the CRC-32 of all before it, and a mark. A CRC
# finds every single damaged byte, and is several times as fast as SHA-256.
TRAILER, MARK = struct.Struct("<I8s"), b"\x89hearth\n"
PIECE = 1 << 20  # bytes that are read at once


class Checksummed:
    """A file to write to that keeps the CRC-32 of what went through; torch.save writes from the start to the end."""

    def __init__(self, file: IO[bytes]):
        self.file, self.crc = file, 0

    def write(self, data: bytes) -> int:
        """Write and count."""
        self.crc = crc32(data, self.crc)
        return self.file.write(data)

    def flush(self) -> None:
        """torch.save asks for it."""
        self.file.flush()


class NotFinite(UserError):
    """A weight is nan or infinite."""


def write_checkpoint(content: dict[str, Any], path: str | Path, previous: Path | None = None) -> None:
    """Write a dict of tensors and plain values, with `weights` among its keys, to the file `path`, together with the
    format's number and hearth's version.

    The file appears whole or not at all: it is written beside its place, flushed, read again and renamed. With
    `previous`, the file that was at `path` gets that name.
    Raises NotFinite when a weight is not finite, OSError when the disk does not take the file; the old one stays then.
    """
    for name, value in content["weights"].items():
        # The sum, which may overflow, takes a tenth of the time.
        if not value.sum().isfinite() and not value.isfinite().all():
            raise NotFinite(f"{path} is not written, its weight {name} is not finite")

    def write(file: IO[bytes]) -> None:
        summed = Checksummed(file)
        # Without torch's own checksums: the CRC over the whole file finds all that they would.
        with serialization.patch({"save.compute_crc32": False}):  # type: ignore[attr-defined]
            torch.save({"format": FORMAT, "hearth": VERSION, **content}, summed)  # type: ignore[arg-type]
        file.write(TRAILER.pack(summed.crc, MARK))
        file.flush()
        os.fsync(file.fileno())
        if not is_whole(file):
            raise OSError(errno.EIO, "reads differently from what was written")

    try:
        write_atomically(path, write, binary=True, previous=previous)
    except RuntimeError as error:  # torch's writer turns the disk's error into one of its own
        cause = error.__context__
        if not isinstance(cause, OSError):
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from None


def is_whole(file: Any) -> bool:
    """Whether an open checkpoint is as it was written, checked before anything in it is used; left at its start.

    A file without our trailer is somebody else's: a zip file that torch.save wrote has checksums of its own, and any
    other is left to torch.load. A zip file that ends otherwise was cut off, or is ours and damaged in its last bytes.
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


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint file or an address (https://...) holds, on the CPU; `weights` is always one of its keys.

    Only tensors and plain values are read: a file that would run code is refused. Files of older hearths come in
    today's format; of others see others_weights. With `file#part` the weights are those below that name in the file.
    Raises UserError; its __context__ is the OSError where the file could not be read.
    """
    name, part = (str(path), "") if os.path.exists(path) else str(path).partition("#")[::2]
    file = downloaded(name)
    try:
        content = load_file(file)
    except (OSError, MemoryError) as error:
        raise UserError(f"checkpoint {name} cannot be read: {getattr(error, 'strerror', '') or error}") from None
    except inert.CodeRefused as error:
        raise UserError(
            f"{name} is refused: to read it means to run {error}, and a file may run anything that way; where "
            "it was made, save the weights alone: torch.save(model.state_dict(), file)"
        ) from None
    except UserError:
        raise
    except Exception:  # torch raises what its readers raise: RuntimeError, EOFError, UnpicklingError, ...
        raise UserError(f"{name}{'' if name == str(file) else f', kept as {file},'} is {what_it_is(file)}") from None
    if not content["weights"]:
        raise UserError(f"{name} holds no weights that hearth knows: a file of model.save() or a state dict is needed")
    number = content.get("format", 1)
    if isinstance(number, int) and number > FORMAT:
        raise UserError(f"{name} was written by hearth {content.get('hearth')}, which is newer than {VERSION}: update")
    if part:
        content["weights"] = part_of(content["weights"], part, name)
    return from_format_1(content) if number == 1 else content


def load_file(file: Path) -> dict[str, Any]:
    """A file's content, `weights` among its keys: of ours as it was saved, of another see others_weights. Raises what
    its readers raise."""
    if file.suffix == ".safetensors":
        return others_weights(read_safetensors(file))
    with open(file, "rb") as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about pickles that are not as it writes them
        if not is_whole(opened):
            raise EOFError
        try:
            content = torch.load(opened, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # there are classes in it
            opened.seek(0)
            return others_weights(torch.load(opened, map_location="cpu", pickle_module=inert, weights_only=False))
    weights: Any = content.get("weights") if isinstance(content, dict) else None
    ours = isinstance(weights, dict) and isinstance(content.get("model", ""), str)
    ours = ours and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items())
    return content if ours else others_weights(content)


def from_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """What hearth 0.1 kept of a run, under today's names; of any other file nothing changes."""
    if "update" not in content or "average" not in content:
        return content
    content["step"] = {**content.pop("update"), "ema": content.pop("average")}
    content["sampler"] = content.pop("order")
    content["meters"] = {"losses": content.pop("loss_meter"), "scores": content.pop("train_meter")}
    content["guard"] = content.pop("divergence")
    return content
