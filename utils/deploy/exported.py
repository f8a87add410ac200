"""Files that `export` wrote: opened in the library that runs them, with what they say about themselves."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils import UserError

from .sessions import Session, open_ncnn, open_onnx, open_openvino

MODEL = "ExportedFile"  # the class of models/ that runs such a file

# {suffix: a file's content -> (what runs it, its metadata)}. A program of torch.export is none of them: to read it is
# to run whatever its writer put into it.
OPENERS: dict[str, Callable[[bytes], tuple[Session, dict[str, str]]]] = {
    ".onnx": open_onnx,
    ".openvino": open_openvino,
    ".ncnn": open_ncnn,
}


def is_exported(path: Any) -> bool:
    """Whether a path is that of an exported file, by its suffix."""
    return Path(path).suffix.lower() in OPENERS


def open_exported(path: str | Path) -> tuple[Session, dict[str, Any]]:
    """(session, what the file says about itself: {name: value}, see `described`) of a file of `export`. It is opened
    once. Raises UserError when it is missing, damaged or not of hearth, or what runs it is not installed."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no such file; `python main.py export` writes it")
    return _open_exported(str(path), os.stat(path).st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _open_exported(path: str, changed: int) -> tuple[Session, dict[str, Any]]:
    suffix = Path(path).suffix.lower()
    try:
        session, metadata = OPENERS[suffix](Path(path).read_bytes())
    except UserError:
        raise
    except Exception as error:  # the libraries have their own classes for everything
        why = " ".join(str(error).split())[:160]
        raise UserError(f"{path} is no whole {suffix} model (cut off, damaged or another thing): {why}") from None
    return session, described(metadata, path)


def described(metadata: dict[str, str], path: str) -> dict[str, Any]:
    """The metadata of a file: task, loss, classes, preparation, config, run, commit, hearth. Raises UserError."""
    try:
        facts = {name: json.loads(metadata[name]) for name in ("classes", "preparation", "config")}
        known = {"task", "loss"} <= metadata.keys() and {"mean", "std"} <= facts["preparation"].keys()
        known = known and {"dataset"} <= facts["config"].keys() and bool(facts["classes"])
    except (KeyError, ValueError, AttributeError, TypeError):
        known = False
    if not known:
        raise UserError(
            f"{path} was not exported by hearth: it does not say its classes and how pictures are prepared; "
            "`python main.py export` writes such a file"
        )
    return {**metadata, **facts}


def read_exported(path: str | Path) -> dict[str, Any]:
    """A file of `export` as if it were a checkpoint, see read_checkpoint; it has no weights, models.ExportedFile runs
    it. Raises UserError."""
    _, facts = open_exported(path)
    config = {**facts["config"], "model": MODEL, "load_model_path": str(path)}
    return {"model": MODEL, "info": {"classes": facts["classes"], "config": config}, "weights": {}}
