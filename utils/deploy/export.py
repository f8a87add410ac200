"""The command export: a trained model as one file that runs without hearth, proven equal before it is written."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from utils import VERSION, UserError
from utils.files import check_writable, megabytes, write_atomically
from utils.options.kinds import height_width
from utils.options.options import read_yaml
from utils.train.device import one_batch

from .convert import halved, quantised, quiet, to_ncnn, to_onnx, to_openvino, to_pt2
from .exported import described
from .proof import prove
from .sessions import installed, open_ncnn, open_onnx, open_openvino, open_pt2

CALIBRATION = 100  # training samples that give --int8 the ranges of its scales
OWN = "load_model_path", "run", "format", "output"  # options of this command, not of the model

# {format, which is also the suffix: (module, example, metadata -> content, content -> (what runs it, metadata))}
FORMATS: dict[str, tuple[Callable[..., bytes], Callable[[bytes], tuple[Any, dict[str, str]]]]] = {
    "onnx": (to_onnx, open_onnx),
    "openvino": (to_openvino, open_openvino),
    "ncnn": (to_ncnn, open_ncnn),
    "pt2": (to_pt2, open_pt2),
}


class Shipped(nn.Module):
    """A model with what is before and after it: pictures uint8 [N, H, W, 3] -> probabilities [N, C, ...].

    Args:
        module: a BasicModule, in eval mode on the CPU.
        mean, std: of the pictures that it takes, on a scale of 0 to 1; empty: its input is no picture, and stays.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, module: Any, mean: Any, std: Any):
        super().__init__()
        self.module, self.pictures = module, bool(mean)
        shift, scale = torch.tensor([mean, std]).view(2, -1, 1, 1)
        self.register_buffer("scale", 1 / (255 * scale))
        self.register_buffer("shift", -shift / scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.planes(x.permute(0, 3, 1, 2).float() if self.pictures else x)

    def planes(self, x: torch.Tensor) -> torch.Tensor:
        """The same of float32 [N, 3, H, W] from 0 to 255; an input that is no picture stays."""
        return self.module.decode(self.module(x * self.scale + self.shift if self.pictures else x))


def export(program: ModuleType, opt: Any) -> None:
    """Write a checkpoint as a file of --format, --output or <checkpoint>.<format> beside it, once it predicted the same
    as the checkpoint on the validation samples. Raises UserError; ends with exit code 1 and no file where not."""
    kind = check(opt)
    convert, open_content = FORMATS[kind]
    opt, model, _ = program.load_trained(opt)
    if model.task in ("detection", "keypoints"):
        raise UserError(
            f"export does not write {model.model_name}: torch's exporter fixes the pictures' number and size in a "
            "detector, or refuses it; `predict`, `val` and `test` take its checkpoint"
        )
    smaller = "_half" * opt.half or "_int8" * opt.int8
    path = Path(opt.output or Path(opt.load_model_path).with_suffix("").as_posix() + f"{smaller}.{kind}")
    check_writable(path, "--output")
    model, cpu = model.float().cpu(), torch.device("cpu")
    model.precision = "fp32"
    val_data = program.make_data(opt, "val", cpu, model.info["classes"])
    preparation = getattr(program.data, opt.dataset).preparation
    made = preparation and preparation(model.info["classes"], **opt.values())
    metadata = describe(model, opt, made)
    facts = described(metadata, str(path))
    shape = (*height_width(opt.image_size), 3) if made else tuple(val_data[0][0].shape)
    example = torch.zeros(2, *shape, dtype=torch.uint8 if made else torch.float32)
    how = facts["preparation"]
    content = convert(Shipped(model, how["mean"], how["std"]).eval(), example, metadata)

    def opened(content: bytes) -> Any:
        with quiet(f"the model was converted to {kind}, and cannot be run there"):
            session, _ = open_content(content)
            session.run(None, {session.get_inputs()[0].name: example.numpy()})
        return program.models.ExportedFile(len(facts["classes"]), str(path), (session, facts))

    exported = {kind: opened(content)}
    if opt.half or opt.int8:
        content = halved(content) if opt.half else quantised(content, calibration(program, opt, exported[kind]))
        exported["--half" if opt.half else "--int8"] = opened(content)
    prove(model, exported, val_data, program.make_val_loader(opt, model, val_data, cpu))
    write_atomically(path, lambda file: file.write(content), binary=True)
    print(f"wrote {path}, {megabytes(len(content))}")


def check(opt: Any) -> str:
    """The format that the options ask for. Raises UserError for options that do not fit, and packages that are not
    installed."""
    kind = opt.format or "onnx"
    if kind not in FORMATS:
        raise UserError(f"--format={kind} is what predict prints: export writes {', '.join(FORMATS)}")
    if opt.half and opt.int8:
        raise UserError("--half and --int8 are two ways to make the weights smaller: give one of them")
    if kind != "onnx" and (opt.half or opt.int8):
        raise UserError(f"--half and --int8 are for ONNX files: leave them, or --format={kind}, out")
    if opt.output and Path(opt.output).suffix != f".{kind}":
        raise UserError(f"--output={opt.output}: end it with .{kind}, by which the file is known")
    installed(kind)
    return kind


def calibration(program: ModuleType, opt: Any, exported: Any) -> list[dict[str, Any]]:
    """Training samples as the exported model takes them, {its input's name: array of one}; classifiers' are not
    augmented. Raises UserError where there are no training data."""
    opt.assign(augment=False, pack=False)
    train_data = program.make_data(opt, "train", torch.device("cpu"), exported.classes)
    chosen = torch.linspace(0, len(train_data) - 1, min(CALIBRATION, len(train_data))).long().tolist()
    return [exported.fed(one_batch(train_data, [index], torch.device("cpu"))[0]) for index in chosen]


def describe(model: Any, opt: Any, made: Any) -> dict[str, str]:
    """What the file says about itself, see exported.described; `made`: the data set's Preparation, or None."""
    folder, commit = Path(opt.load_model_path).absolute().parent, ""
    with contextlib.suppress(UserError, LookupError, TypeError):
        commit = read_yaml(folder / "config.yaml", ())["run"][-1]["git_commit"] or ""
    height, width = height_width(opt.image_size)
    preparation = {
        "input": "uint8 RGB pictures [N, height, width, 3]" if made else "float32 points [N, 1, 2]",
        "height": height,
        "width": width,
        "fit": made.how if made else "",
        "center_crop": opt.center_crop,
        "interpolation": opt.interpolation,
        "mean": made.mean if made else [],  # the file itself normalises
        "std": made.std if made else [],
    }
    return {
        "hearth": VERSION,
        "model": model.model_name,
        "task": model.task,
        "loss": model.loss,
        "classes": json.dumps(list(model.info["classes"])),
        "preparation": json.dumps(preparation),
        "config": json.dumps({name: value for name, value in opt.to_dict().items() if name not in OWN}),
        "run": folder.name,
        "commit": commit,
    }
