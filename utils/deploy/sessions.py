"""Exported models in the libraries that run them, on the CPU, with as many threads as torch has.

Each `open_` function takes a file's content and returns (session, metadata); a session takes and gives arrays as those
of ONNX Runtime do. They raise UserError where the library is not installed, and what the library raises for content
that is damaged, or anything else.
"""

import importlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils import UserError

from .convert import METADATA, quiet, silence, unpacked

# {format: the packages with which it is written and run; the last of them runs it}
PACKAGES: dict[str, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "ncnn": ("pnnx", "ncnn"),
    "pt2": (),
}
# ncnn's options that trade digits for speed, where the machine has such numbers.
ROUNDED = "use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"


class Session:
    """A model with one input and one output.

    Args:
        name, shape: of the input; the first number of the shape is free.
        compute: an array [N, ...] -> an array [N, ...].
    """

    def __init__(self, name: str, shape: list[Any], compute: Callable[[Any], Any]):
        self.name, self.shape, self.compute = name, shape, compute

    def get_inputs(self) -> list[Any]:
        """The one input: what has `name` and `shape`."""
        return [self]

    def run(self, names: None, fed: dict[str, Any]) -> list[Any]:
        """{the input's name: array} -> [the output, an array]."""
        return [self.compute(fed[self.name])]


def installed(kind: str, *names: str) -> list[Any]:
    """The packages of a format, or those of them that are named. Raises UserError where one is not installed."""
    try:
        return [importlib.import_module(name) for name in names or PACKAGES[kind]]
    except ImportError:
        line = f"pip install {' '.join(PACKAGES[kind])}"
        raise UserError(f".{kind} files need packages that are not installed: {line}") from None


def open_onnx(content: bytes) -> tuple[Any, dict[str, str]]:
    """An ONNX file, in ONNX Runtime."""
    (onnxruntime,) = installed("onnx", "onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors are raised
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session, session.get_modelmeta().custom_metadata_map


def open_openvino(content: bytes) -> tuple[Session, dict[str, str]]:
    """An archive of convert.to_openvino, in OpenVINO."""
    metadata, xml, weights = unpacked(content, "model.xml", "model.bin")
    (openvino,) = installed("openvino", "openvino")
    core = openvino.Core()
    # Without the hint it computes in 16 bits where the machine has them.
    how = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    model = core.compile_model(core.read_model(io.BytesIO(xml), io.BytesIO(weights)), "CPU", how)
    shape = [side.get_length() if side.is_static else "N" for side in model.input().get_partial_shape()]
    return Session(model.input().any_name, shape, lambda rows: model(rows)[0]), metadata


def open_ncnn(content: bytes) -> tuple[Session, dict[str, str]]:
    """An archive of convert.to_ncnn, in ncnn, which takes one picture at a time."""
    metadata, *files = unpacked(content, "model.param", "model.bin")
    (ncnn,) = installed("ncnn", "ncnn")
    net, (shape, found) = ncnn.Net(), json.loads(metadata["shapes"])
    net.opt.num_threads = torch.get_num_threads()
    for name in ROUNDED:
        setattr(net.opt, name, False)
    with tempfile.TemporaryDirectory() as folder, silence():
        paths = [Path(folder, name) for name in ("param", "bin")]
        for path, part in zip(paths, files, strict=True):
            path.write_bytes(part)
        if net.load_param(str(paths[0])) or net.load_model(str(paths[1])):
            raise ValueError("ncnn does not know a layer of it, or its weights end too early")

    def compute(rows: Any) -> Any:
        planes = rows.transpose(0, 3, 1, 2) if rows.ndim == 4 else rows
        outputs = []
        for row in planes.astype(np.float32, order="C"):  # ncnn reads where it lies
            run = net.create_extractor()
            run.input("in0", ncnn.Mat(row))
            outputs.append(np.array(run.extract("out0")[1]).reshape(found))
        return np.concatenate(outputs)

    return Session("pictures" if len(shape) == 4 else "points", shape, compute), metadata


def open_pt2(content: bytes) -> tuple[Session, dict[str, str]]:
    """A file of torch.export, in torch. It has to be our own: to read it is to run what is in it."""
    extra = {METADATA: ""}
    with quiet("torch cannot read what it exported"):
        loaded = torch.export.load(io.BytesIO(content), extra_files=extra)  # type: ignore[arg-type]
    module, (name,) = loaded.module(), loaded.graph_signature.user_inputs
    (shape,) = (node.meta["val"].shape for node in loaded.graph.nodes if node.name == name)
    run = Session(str(name), [*shape], lambda rows: module(torch.from_numpy(rows)).detach().numpy())
    return run, json.loads(extra[METADATA])
