"""ONNX files that `export` wrote: opened in ONNX Runtime, with what they say about themselves."""

import functools
import importlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from utils import UserError

INSTALL = "pip install onnx onnxruntime"
MODEL = "OnnxFile"  # the class of models/ that runs such a file


def is_onnx(path: Any) -> bool:
    """Whether a path is that of an ONNX file, by its suffix."""
    return Path(path).suffix.lower() == ".onnx"


def runtime(*others: str) -> Any:
    """The module onnxruntime. Raises UserError when it, or one of `others`, is not installed."""
    try:
        for name in others:
            importlib.import_module(name)
        import onnxruntime
    except ImportError:
        raise UserError(f"ONNX files need packages that are not installed: {INSTALL}") from None
    return onnxruntime


def make_session(model: str | bytes) -> Any:
    """An ONNX Runtime session on the CPU with as many threads as torch has, of a file's path or its content. Raises
    what ONNX Runtime raises."""
    options = runtime().SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors are raised
    return runtime().InferenceSession(model, options, providers=["CPUExecutionProvider"])


def open_exported(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """(session, what the file says about itself: {name: value}, see `described`) of a file of `export`. It is opened
    once. Raises UserError when it is missing, damaged or not of hearth."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no such file; `python main.py export` writes it")
    return _open_exported(str(path), os.stat(path).st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _open_exported(path: str, changed: int) -> tuple[Any, dict[str, Any]]:
    try:
        session = make_session(path)
    except UserError:
        raise
    except Exception as error:  # ONNX Runtime has its own classes for everything
        why = " ".join(str(error).split())[:160]
        raise UserError(f"{path} is no whole ONNX model (cut off, damaged or another thing): {why}") from None
    return session, described(session.get_modelmeta().custom_metadata_map, path)


def described(metadata: dict[str, str], path: str) -> dict[str, Any]:
    """The metadata of a file: task, loss, classes, preparation, config, run, commit, hearth. Raises UserError."""
    try:
        facts = {name: json.loads(metadata[name]) for name in ("classes", "preparation", "config")}
        known = {"task", "loss"} <= metadata.keys() and {"mean", "std"} <= facts["preparation"].keys()
        known = known and {"dataset"} <= facts["config"].keys() and bool(facts["classes"])
    except (KeyError, ValueError, AttributeError):
        known = False
    if not known:
        raise UserError(
            f"{path} was not exported by hearth: it does not say its classes and how pictures are prepared; "
            "`python main.py export` writes such a file"
        )
    return {**metadata, **facts}


def read_exported(path: str | Path) -> dict[str, Any]:
    """A file of `export` as if it were a checkpoint, see read_checkpoint; it has no weights, models.OnnxFile runs it.
    Raises UserError."""
    _, facts = open_exported(path)
    config = {**facts["config"], "model": MODEL, "load_model_path": str(path)}
    return {"model": MODEL, "info": {"classes": facts["classes"], "config": config}, "weights": {}}
