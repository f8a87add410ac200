"""A model as the content of a file: ONNX with weights of 32, 16 or 8 bits, OpenVINO, ncnn, torch.export."""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from utils import UserError

OPSET = 17
METADATA = "hearth.json"  # the file with metadata in an archive
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
        torch.export.save(made, file, extra_files={METADATA: json.dumps(metadata)})
    return file.getvalue()


def to_openvino(shipped: nn.Module, example: torch.Tensor, metadata: dict[str, str]) -> bytes:
    """A module as an archive with the two files of an OpenVINO model, with a free batch size. Raises UserError."""
    import openvino

    content = to_onnx(shipped, example, {})
    with quiet("OpenVINO cannot convert this model"), tempfile.TemporaryDirectory() as folder:
        # Not convert_model, which reports to its makers that it was used.
        model = openvino.Core().read_model(io.BytesIO(content))
        openvino.save_model(model, Path(folder, "model.xml"), compress_to_fp16=False)
        return packed(Path(folder), metadata, {"model.xml": "model.xml", "model.bin": "model.bin"})


class Planes(nn.Module):
    """What ncnn runs: the same as its Shipped, but that pictures are float32 [1, 3, H, W] from 0 to 255."""

    def __init__(self, shipped: Any):
        super().__init__()
        self.shipped = shipped

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.shipped.planes(x)


def to_ncnn(shipped: nn.Module, example: torch.Tensor, metadata: dict[str, str]) -> bytes:
    """A module as an archive with the two files of an ncnn model, which takes one picture at a time. Its metadata have
    `shapes`: of the input as the others take it, and of one output. Raises UserError when it cannot."""
    import pnnx

    one = example[:1].float()
    planes = one.permute(0, 3, 1, 2) if one.ndim == 4 else one
    names = {"model.param": "model.ncnn.param", "model.bin": "model.ncnn.bin"}
    with quiet("ncnn cannot take this model"), tempfile.TemporaryDirectory() as folder:
        found = shipped(example[:1])
        torch.jit.trace(Planes(shipped), planes, check_trace=False).save(Path(folder, "model.pt"))
        shape = f"inputshape={json.dumps([*planes.shape])}".replace(" ", "")
        command = [pnnx.EXEC_PATH, "model.pt", shape, "fp16=0"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
        if done.returncode or not all(Path(folder, name).is_file() for name in names.values()):
            raise RuntimeError(f"its converter pnnx ends with {done.returncode}, {(done.stderr or done.stdout)[-160:]}")
        layers = [line.split()[0] for line in Path(folder, names["model.param"]).read_text().splitlines()[2:]]
        if unknown := sorted({layer for layer in layers if "." in layer or "::" in layer}):  # torch's, as they were
            raise RuntimeError(f"it has no layer for {', '.join(unknown)}; give another --format")
        return packed(Path(folder), {**metadata, "shapes": json.dumps([example.shape, found.shape])}, names)


def packed(folder: Path, metadata: dict[str, str], names: dict[str, str]) -> bytes:
    """A zip archive of files in `folder`, not compressed, {name in it: name in the folder}, with the metadata beside
    them. One file is replaced in one step, and its checksums tell when it is damaged."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for inside, name in names.items():
            archive.writestr(zipfile.ZipInfo(inside), Path(folder, name).read_bytes())
        archive.writestr(zipfile.ZipInfo(METADATA), json.dumps(metadata, indent=1))
    return file.getvalue()


def unpacked(content: bytes, *names: str) -> tuple[Any, ...]:
    """(metadata, then the content of each file) of such an archive. Raises what zipfile and json raise."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return json.loads(archive.read(METADATA)), *map(archive.read, names)


def halved(content: bytes) -> bytes:
    """An ONNX file's content with weights and arithmetic of 16 bits; input and output stay as they are. Raises
    UserError."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet("--half: ONNX Runtime cannot convert this model"):
        return convert_float_to_float16(onnx.load_from_string(content), keep_io_types=True).SerializeToString()


def quantised(content: bytes, samples: Sequence[dict[str, Any]]) -> bytes:
    """An ONNX file's content with weights and products of 8 bits, whose scales are the ranges of `samples`: each is
    {name of the input: array of a batch}. Raises UserError."""
    import onnx
    from onnxruntime.quantization import quantize_static

    with quiet("--int8: ONNX Runtime cannot convert this model"), tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        reader: Any = Samples(iter(samples))
        quantize_static(onnx.load_from_string(content), file, reader, per_channel=True, op_types_to_quantize=QUANTISED)
        return file.read_bytes()


class Samples:
    """What ONNX Runtime asks of its calibration: one batch after the other, then None."""

    def __init__(self, samples: Iterator[dict[str, Any]]):
        self.samples = samples

    def get_next(self) -> dict[str, Any] | None:
        """The next batch."""
        return next(self.samples, None)
