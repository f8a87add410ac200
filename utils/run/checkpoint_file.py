"""Checkpoint files: proven whole before they replace an older one, and again before they are read."""

import errno
import hashlib
import http.client
import os
import re
import struct
import urllib.error
import zipfile
from pathlib import Path
from typing import IO, Any
from zlib import crc32

import torch
from torch.utils.serialization import config as serialization

from utils import VERSION, UserError
from utils.files import write_atomically

FORMAT = 2  # of what a checkpoint holds; files without a number are of format 1
# Behind the file that torch.save writes, where torch.load does not look: the CRC-32 of all before it, and a mark. A CRC
# finds every single damaged byte, and is several times as fast as SHA-256.
TRAILER, MARK = struct.Struct("<I8s"), b"\x89hearth\n"
PIECE = 1 << 20  # bytes that are read at once
NAMED = 8  # weights that are listed


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


def write_checkpoint(content: dict[str, Any], path: str | Path, previous: Path | None = None) -> None:
    """Write a dict of tensors and plain values, with `weights` among its keys, to the file `path`, together with the
    format's number and hearth's version.

    The file appears whole or not at all: it is written beside its place, flushed, read again and renamed. With
    `previous`, the file that was at `path` gets that name.
    Raises UserError when a weight is not finite, OSError when the disk does not take the file; the old one stays then.
    """
    for name, value in content["weights"].items():
        # The sum, which may overflow, takes a tenth of the time.
        if not value.sum().isfinite() and not value.isfinite().all():
            raise UserError(f"{path} is not written, its weight {name} is not finite")

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
    today's format. Raises UserError; its __context__ is the OSError where the file could not be read.
    """
    try:
        if str(path).startswith(("https://", "http://")):
            # Kept under the whole address: many have a best.pth.
            file = f"{hashlib.sha256(str(path).encode()).hexdigest()[:16]}_{Path(path).name}"
            content: Any = torch.hub.load_state_dict_from_url(
                str(path), file_name=file, map_location="cpu", weights_only=True
            )
        else:
            with open(path, "rb") as opened:
                if not is_whole(opened):
                    raise EOFError
                content = torch.load(opened, map_location="cpu", weights_only=True)
    except (urllib.error.URLError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"{path} cannot be downloaded ({reason}): fetch it elsewhere and give the file") from None
    except (OSError, MemoryError) as error:
        raise UserError(f"checkpoint {path} cannot be read: {getattr(error, 'strerror', '') or error}") from None
    except Exception as error:  # torch raises what its readers raise: RuntimeError, EOFError, UnpicklingError, ...
        if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path} is refused: to read it means to run {refused[1]}, and a file may run anything that way; where "
                "it was made, save the weights alone: torch.save(model.state_dict(), file)"
            ) from None
        raise UserError(
            f"{path} is not a whole checkpoint (cut off, damaged, or another thing): take another one"
        ) from None
    if isinstance(content, dict) and content and all(isinstance(value, torch.Tensor) for value in content.values()):
        content = {"weights": content}
    weights = content.get("weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in weights.items()
    ):
        raise UserError(f"{path} holds no weights that hearth knows: a file of model.save() or a state dict is needed")
    number = content.get("format", 1)
    if isinstance(number, int) and number > FORMAT:
        raise UserError(f"{path} was written by hearth {content.get('hearth')}, which is newer than {VERSION}: update")
    return from_format_1(content) if number == 1 else content


def from_format_1(content: dict[str, Any]) -> dict[str, Any]:
    """What hearth 0.1 kept of a run, under today's names; of any other file nothing changes."""
    if "update" not in content or "average" not in content:
        return content
    content["step"] = {**content.pop("update"), "ema": content.pop("average")}
    content["sampler"] = content.pop("order")
    content["meters"] = {"losses": content.pop("loss_meter"), "scores": content.pop("train_meter")}
    content["guard"] = content.pop("divergence")
    return content


def fitting_weights(
    module: Any, content: dict[str, Any], path: str | Path, partly: bool, least: float
) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint's content that fit a BasicModule by name and shape; with `partly` a line names those
    that do not. Raises UserError when it does not fit: all weights have to, with `partly` half of the file's, and of
    the model's besides its head the share `least`."""
    weights = {name.removeprefix("module."): value for name, value in content["weights"].items()}
    own, info = module.state_dict(), content.get("info", {})
    if module.inner and not any(name.startswith(f"{module.inner}.") for name in weights):
        weights = {f"{module.inner}.{name}": value for name, value in weights.items()}
    fitting = {n: value for n, value in weights.items() if n in own and value.shape == own[n].shape}
    wrong = [name for name in {**own, **weights} if name not in fitting]
    if wrong and not (partly and 2 * len(fitting) >= len(weights)):
        kept = content.get("model", module.model_name)
        if kept != module.model_name:
            raise UserError(f"{path} holds a {kept}, not a {module.model_name}: give --model={kept}")
        hint = f" (it knows the classes {', '.join(info['classes'])})" if info.get("classes") else ""
        raise UserError(
            f"{path} does not fit {module.model_name}{hint}: weights are missing, unknown or of another "
            f"shape, {len(wrong)} in all; the first is {wrong[0]}"
        )
    body = [name for name in own if not (module.head and name.startswith(f"{module.head}."))]
    lacking = [name for name in body if name not in fitting]
    if len(lacking) > (1 - least) * len(body):
        kept = f", a {content['model']}," if "model" in content else ""
        raise UserError(
            f"{path}{kept} has only {len(body) - len(lacking)} of the {len(body)} weights that {module.model_name} has "
            f"besides its head, {lacking[0]} is missing: give the --model that it is of, or --partly to take them"
        )
    known, asked = info.get("classes"), module.info.get("classes")
    if known and asked and known != asked and not wrong:
        print(f"{path}: all weights loaded, the head too, though its classes were {', '.join(known)}")
    if wrong:
        print(f"{path}: {len(fitting)} of its {len(weights)} weights loaded, {module.model_name} has {len(own)}")
        for what, names in (("dropped", weights), ("at their initial values", own)):
            listed = [name for name in wrong if name in names]
            more = f", ... and {len(listed) - NAMED} more" if len(listed) > NAMED else ""
            print(f"  {what}: {', '.join(listed[:NAMED]) or 'none'}{more}")
    return fitting
