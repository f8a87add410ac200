"""What errors of PyTorch, NumPy and the system mean, each in one line that says what to do."""

import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..train.machine import NO_MEMORY
from .kinds import dashed
from .options import Options

LARGER = "the model needs larger pictures: a larger --image-size"
SUPER = "the model's __init__ has to begin with super().__init__(), see models/basic_module.py"
INPUTS = "the model computes in float32: let the data set return its inputs as float32, tensor.float()"
LABELS = "this loss takes labels of classes: let the data set return them as int64, tensor.long()"
TARGETS = "this loss takes targets in float32: let the data set return them so, tensor.float()"
# What an error says, and what to do.
HINTS = {
    **dict.fromkeys(NO_MEMORY, "out of memory: take a smaller --batch-size or --image-size, or another --model"),
    "Expected more than 1 value per channel": "BatchNorm cannot learn from one value: "
    "a larger --batch-size or --image-size",
    **dict.fromkeys(("Output size is too small", "Kernel size can't be greater than actual input size"), LARGER),
    **dict.fromkeys(("before Module.__init__() call", "has no attribute 'model_name'"), SUPER),
    **dict.fromkeys(("have the same dtype, but got", "mixed dtype (CPU)", "does not match weight dtype"), INPUTS),
    **dict.fromkeys((") and bias type (", ") and weight type (", '"batch_norm" not implemented for'), INPUTS),
    "expected scalar type Long but found": LABELS,
    **dict.fromkeys(("Expected floating point type for target", "but expected Float"), TARGETS),
    "is out of bounds.": "a label is no class of the data set: labels are counted from 0 to the number of classes - 1",
}
# What readers of files say of one that was cut off; the type of the error where it says nothing.
CUT_OFF = (
    "PytorchStreamReader failed",
    "unexpected EOF",
    "EOFError",
    "No data left in file",
    "EOF: reading",
    "Failed to read all data for array",
    "mmap length is greater",
    "File is not a zip file",
    "Ran out of input",
    "data was truncated",
)


def explained(error: Exception) -> str:
    """What to do about an error that is not ours, in one line; "" for one that is not known. A file that the system
    does not give is named with the option whose value it is, or lies below."""
    name = type(error).__name__
    # An error of a DataLoader's worker is text, with its frames before it.
    said = re.sub(rf"\ACaught .*\n(\w+\.)*{name}(: |\Z)", "", str(error).strip(), flags=re.DOTALL) or name
    if isinstance(error, OSError):
        found = re.fullmatch(r"\[Errno \d+\] (.*): '(.*)'", said)
        path, why = (error.filename, error.strerror) if error.filename is not None or not found else found.group(2, 1)
        if path is not None:
            return f"{named(str(path), error)}: {why}"
    files = [local.get("f", local.get("file")) for call, local in calls(error) if call in ("torch.load", "numpy.load")]
    if any(text in said for text in CUT_OFF) or (files and isinstance(error, OSError)):
        file = [*files, None][0]  # or an open one
        file = file if isinstance(file, (str, os.PathLike)) else getattr(file, "name", "a file that is read")
        return f"{file} is cut off or damaged: write it again ({said})"
    hint = next((hint for text, hint in HINTS.items() if text in said), "")
    return f"{hint} ({said})" if hint else ""


def calls(error: Exception) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("library.function", its variables) of every call in which the error was raised, the outermost first."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        yield f"{str(frame.f_globals.get('__name__')).partition('.')[0]}.{frame.f_code.co_name}", frame.f_locals


def named(path: str, error: Exception) -> str:
    """A path with the option whose value it is, or below whose value it lies: "--pack-dir=packs: packs/a.u8". The
    options are those in effect where the error was raised: a checkpoint's, say, which the command line did not give."""
    options = [local["opt"] for _, local in calls(error) if isinstance(local.get("opt"), Options)][-1:]
    inside = [
        (len(os.path.abspath(value)), f"{dashed(name)}={value}", value)
        for opt in options
        for name, kind in opt.options().items()
        if "text" in kind.takes or "folder" in kind.takes  # others are no paths
        for value in (getattr(opt, name) if isinstance(getattr(opt, name), list) else [getattr(opt, name)])
        if value and Path(os.path.abspath(path)).is_relative_to(os.path.abspath(value))
    ]
    _, option, value = max(inside, default=(0, "", ""))
    return f"{option}: {path}" if option and value != path else option or path
