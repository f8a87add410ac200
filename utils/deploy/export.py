"""The command export: a trained model as one file that runs without hearth, proven equal before it is written."""

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from utils import VERSION, UserError
from utils.files import check_writable, megabytes, write_atomically
from utils.options.kinds import height_width
from utils.options.options import read_yaml

from .onnx_file import INSTALL, described, make_session
from .proof import prove

OPSET = 17


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
        if self.pictures:
            x = x.permute(0, 3, 1, 2).float() * self.scale + self.shift
        return self.module.decode(self.module(x))


def export(program: ModuleType, opt: Any) -> None:
    """Write a checkpoint as an ONNX file, --output or <checkpoint>.onnx beside it, once it predicted the same as
    the checkpoint on the validation samples. Raises UserError; ends with exit code 1 and no file where they differ."""
    if opt.format not in (None, "onnx"):
        raise UserError(f"--format={opt.format} is what predict prints: export writes onnx")
    try:
        import onnx  # noqa: F401 - also torch's exporter needs it
    except ImportError:
        raise UserError(f"export needs packages that are not installed: {INSTALL}") from None
    opt, model, _ = program.load_trained(opt)
    if model.task in ("detection", "keypoints"):
        raise UserError(f"export does not write {model.model_name}: its number of boxes varies")
    path = Path(opt.output or Path(opt.load_model_path).with_suffix(".onnx"))
    check_writable(path, "--output")
    model, cpu = model.float().cpu(), torch.device("cpu")
    model.precision = "fp32"
    val_data = program.make_data(opt, "val", cpu, model.info["classes"])
    made = getattr(program.data, opt.dataset).preparation
    metadata = describe(model, opt, made)
    facts = described(metadata, str(path))["preparation"]
    shape = (*height_width(opt.image_size), 3) if made else tuple(val_data[0][0].shape)
    example = torch.zeros(2, *shape, dtype=torch.uint8 if made else torch.float32)
    content = to_onnx(Shipped(model, facts["mean"], facts["std"]).eval(), example, metadata)
    opened = make_session(content), described(metadata, str(path))
    exported = program.models.OnnxFile(len(model.info["classes"]), str(path), opened)
    prove(model, exported, val_data, program.make_val_loader(opt, model, val_data, cpu))
    write_atomically(path, lambda file: file.write(content), binary=True)
    print(f"wrote {path}, {megabytes(len(content))}")


def describe(model: Any, opt: Any, made: Any) -> dict[str, str]:
    """What the file says about itself, see onnx_file.described; `made`: the data set's Preparation, or None."""
    folder, commit = Path(opt.load_model_path).absolute().parent, ""
    with contextlib.suppress(UserError, LookupError, TypeError):
        commit = read_yaml(folder / "config.yaml", ())["run"][-1]["git_commit"] or ""
    height, width = height_width(opt.image_size)
    preparation = {
        "input": "uint8 RGB pictures [N, height, width, 3]" if made else "float32 points [N, 1, 2]",
        "height": height,
        "width": width,
        "fit": made.fit if made else "",
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
        "config": json.dumps(opt.to_dict()),
        "run": folder.name,
        "commit": commit,
    }


def to_onnx(shipped: nn.Module, example: torch.Tensor, metadata: dict[str, str]) -> bytes:
    """A module as the content of an ONNX file with a free batch size. Raises UserError when its exporter cannot."""
    import onnx

    file: Any = io.BytesIO()  # legal for this exporter
    names = (["pictures" if example.dtype == torch.uint8 else "points"], ["probabilities"])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # what the proof decides: whether constants depend on the example
        logging.disable(logging.WARNING)
        try:
            # Not the exporter that torch prefers now: it takes several times as long, and fails on more models.
            axes = {names[0][0]: {0: "N"}, names[1][0]: {0: "N"}}
            torch.onnx.export(
                shipped,
                (example,),
                file,
                dynamo=False,
                opset_version=OPSET,
                input_names=names[0],
                output_names=names[1],
                dynamic_axes=axes,
            )
        except Exception as error:  # it raises what torch raises
            raise UserError(f"torch cannot export this model: {' '.join(str(error).split())[:200]}") from None
        finally:
            logging.disable(logging.NOTSET)
    model = onnx.load_from_string(file.getvalue())
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=value)
    onnx.checker.check_model(model)
    return model.SerializeToString()
