"""A model as the content of an ONNX file, with weights of 32, 16 or 8 bits, or of a file of torch.export."""

import contextlib
import io
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from utils import UserError

OPSET = 17
QUANTISED = ["Conv", "MatMul", "Gemm"]  # with all other operations in 8 bits, too, more is lost and nothing is faster


class Pooling(TorchFunctionMode):
    """Within it, adaptive_avg_pool2d to a size that does not divide its input's (AlexNet's at 64 pixels) is two
    products, which ONNX has; the sizes become constants of the graph, as they do in the rest of it. Attention is not
    fused within any such mode, as it has to be: ONNX does not know the fused one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.adaptive_avg_pool2d:
            wanted = args[1] if isinstance(args[1], (tuple, list)) else [args[1]] * 2
            sides = [(int(side), out or int(side)) for side, out in zip(args[0].shape[-2:], wanted, strict=True)]
            if any(side % out for side, out in sides):
                rows, columns = (F.adaptive_avg_pool1d(torch.eye(side)[None], out)[0] for side, out in sides)
                return rows.T @ args[0] @ columns
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def quiet(failure: str) -> Iterator[None]:
    """Let an exporter work without its notes: its errors count, as a UserError that begins with `failure`, and what it
    wrote is proven."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), silence(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # it raises anything
        why = " ".join(str(error).split()).split(". ")[0][:200]
        raise UserError(f"{failure}: {why}") from None
    finally:
        logging.disable(logging.NOTSET)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Nothing reaches stdout and stderr, nor does what C++ prints: torch prints the graph that it cannot export."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(stream) for stream in (1, 2)]
    with open(os.devnull, "wb") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, copy in enumerate(kept, 1):
            os.dup2(copy, stream)
            os.close(copy)


def to_onnx(shipped: nn.Module, example: torch.Tensor, metadata: dict[str, str]) -> bytes:
    """A module as the content of an ONNX file with a free batch size. Raises UserError when its exporter cannot."""
    import onnx

    file: Any = io.BytesIO()  # legal for this exporter
    names = (["pictures" if example.dtype == torch.uint8 else "points"], ["probabilities"])
    with quiet("torch cannot export this model"), Pooling():
        # Not the exporter that torch prefers now: it takes several times as long, and fails on more models.
        torch.onnx.export(
            shipped,
            (example,),
            file,
            dynamo=False,
            opset_version=OPSET,
            input_names=names[0],
            output_names=names[1],
            dynamic_axes={names[0][0]: {0: "N"}, names[1][0]: {0: "N"}},
        )
    model = onnx.load_from_string(file.getvalue())
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=value)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def to_pt2(shipped: nn.Module, example: torch.Tensor, metadata: dict[str, str]) -> bytes:
    """A module as the content of a file of torch.export, with a free batch size. Raises UserError when it cannot."""
    file: Any = io.BytesIO()
    with quiet("torch cannot export this model"):
        made = torch.export.export(shipped, (example,), dynamic_shapes=({0: torch.export.Dim("N")},))
        torch.export.save(made, file, extra_files={"hearth.json": json.dumps(metadata)})
    return file.getvalue()


class Program:
    """The content of such a file, which has to be our own, run as if it were an ONNX Runtime session."""

    def __init__(self, content: bytes):
        with quiet("torch cannot read what it exported"):
            loaded = torch.export.load(io.BytesIO(content))  # type: ignore[arg-type]
        self.module, (name,) = loaded.module(), loaded.graph_signature.user_inputs
        (shape,) = (node.meta["val"].shape for node in loaded.graph.nodes if node.name == name)
        self.inputs = [SimpleNamespace(name=str(name), shape=[*shape])]

    def get_inputs(self) -> list[Any]:
        """Its one input, with name and shape [N, ...]."""
        return self.inputs

    def run(self, names: None, fed: dict[str, Any]) -> list[Any]:
        """{the input's name: array} -> [the output, an array]."""
        return [self.module(*map(torch.from_numpy, fed.values())).detach().numpy()]


def halved(content: bytes) -> bytes:
    """An ONNX file's content with weights and arithmetic of 16 bits; input and output stay as they are. Raises
    UserError."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet("--half: ONNX Runtime cannot convert this model"):
        return convert_float_to_float16(onnx.load_from_string(content), keep_io_types=True).SerializeToString()


def quantised(content: bytes, samples: Iterator[dict[str, Any]]) -> bytes:
    """An ONNX file's content with weights and products of 8 bits, whose scales are the ranges of `samples`: each is
    {name of the input: array of a batch}. Raises UserError."""
    import onnx
    from onnxruntime.quantization import quantize_static

    with quiet("--int8: ONNX Runtime cannot convert this model"), tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        reader: Any = Samples(samples)
        quantize_static(onnx.load_from_string(content), file, reader, per_channel=True, op_types_to_quantize=QUANTISED)
        return file.read_bytes()


class Samples:
    """What ONNX Runtime asks of its calibration: one batch after the other, then None."""

    def __init__(self, samples: Iterator[dict[str, Any]]):
        self.samples = samples

    def get_next(self) -> dict[str, Any] | None:
        """The next batch."""
        return next(self.samples, None)
