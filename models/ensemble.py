"""The mean of several trained models' probabilities, or of several views of a picture."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from utils import UserError
from utils.notices import note
from utils.options.kinds import height_width
from utils.run.members import check_alike
from utils.search.calibration import fitted_temperature

from .basic_module import BasicModule
from .exported_file import TINY

FEW = 9  # classes that are shown
AVERAGED = "classification", "segmentation"  # tasks with a probability for every class


class Ensemble(BasicModule):
    """Pictures [N, 3, H, W] -> logarithm of the mean probabilities, [N, C] or [N, C, H, W], whose softmax they are.

    Args:
        members: trained models of one task and of the same classes.
        tta: None; flip: also of the mirrored picture; multi: both also of the middle seven eighths, enlarged.
        temperature: the logarithm is divided by it.
        sizes: (height, width) of the pictures for each member, which are resized where they come in another; none: as
            they come.

    Raises UserError for members that differ, for another task, and for "multi" with masks.
    """

    def __init__(
        self,
        members: Sequence[Any],
        tta: str | None = None,
        temperature: float = 1.0,
        sizes: Sequence[tuple[int, int]] = (),
    ):
        super().__init__()
        first = members[0]
        for other in members:
            if (other.task, other.info["classes"]) != (first.task, first.info["classes"]):
                one, two = (f"{m.model_name} ({m.task}: {', '.join(m.info['classes'][:FEW])})" for m in (first, other))
                raise UserError(
                    f"{one} and {two} cannot be averaged: the classes have to be the same, in the same order"
                )
        if first.task not in AVERAGED or (tta == "multi" and first.task == "segmentation"):
            what = f"--tta={tta}" if tta else "an average of several models"
            kinds = "classification" if tta == "multi" else " and ".join(AVERAGED)
            raise UserError(f"{what} is for {kinds}, and {first.model_name} is for {first.task}")
        self.members, self.tta, self.temperature, self.sizes = nn.ModuleList(members), tta, temperature, list(sizes)
        self.task, self.info, self.precision, self.criterion = first.task, first.info, first.precision, first.criterion

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, C] or [N, C, H, W]"""
        total: Any = 0.0
        views = [x, *([enlarged(x)] if self.tta == "multi" else [])]
        own_size = x.shape[-2:]
        for member, size in zip(self.members, self.sizes or [own_size] * len(self.members), strict=True):
            with member.autocast():  # each computes in its own precision, whatever that of the first one is
                for view in (resized(view, size) for view in views):
                    total = total + resized(member.predict(view), own_size)
                    if self.tta:
                        mirrored = member.predict(view.flip(-1))
                        total = total + resized(mirrored.flip(-1) if mirrored.ndim == 4 else mirrored, own_size)
        count = len(self.members) * len(views) * (2 if self.tta else 1)
        return (total / count).clamp_min(TINY).log() / self.temperature


def enlarged(x: torch.Tensor) -> torch.Tensor:
    """The middle of pictures [N, 3, H, W], seven eighths of each side, as large as the whole."""
    height, width = x.shape[2:]
    top, left = height // 16, width // 16
    return F.interpolate(x[..., top : height - top, left : width - left], (height, width), mode="bilinear")


def resized(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Pictures or masks' probabilities [N, C, H, W] in another size; anything else, [N, C] say, as it is."""
    if images.ndim != 4 or images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)


def average(given: Any, name: str, members: Sequence[Any], load: Callable[[Any], Any]) -> Any:
    """(options, Ensemble in eval mode, device) of the models that these options name each, `name` all together.

    load: options -> (options, model, device). What it prints about the second and later ones is left out. Raises
    UserError where they cannot be averaged.
    """
    loaded: list[Any] = []
    for one in members:
        with contextlib.redirect_stdout(io.StringIO() if loaded else sys.stdout):
            loaded.append(load(one))
    options, models, devices = zip(*loaded, strict=True)
    check_alike(options, given)
    names = [model.model_name for model in models]
    for one, model in zip(options, models, strict=True):
        if names.count(model.model_name) > 1:  # else no picture comes twice
            model.freeze_as_trained(one)
    opt, files = options[0], [one.load_model_path for one in options]
    sizes = [height_width(one.image_size) for one in options]
    opt.assign(image_size=options[sizes.index(max(sizes))].image_size)
    if len(files) > 1:
        print(f"the probabilities of {len(files)} models are averaged: {name}")
    if len(set(sizes)) > 1:
        note(f"pictures are read with --image-size={opt.image_size}, and resized for the models of other sizes")
    if getattr(opt, "cam", 0):
        raise UserError(f"--cam={opt.cam} shows where one model looks, at one view: leave out what is averaged")
    folder = Path(name) if os.path.isdir(name) else Path(files[0]).parent  # a list may be too long for a Path
    temperature = fitted_temperature(folder, models[0].info["classes"]) if given.calibrate else 1.0
    if temperature > 1 and len(files) > 1:
        note(f"a mean is less certain than its models already: --calibrate, by {temperature:.4g}, may do harm to it")
    model = Ensemble(models, given.tta, temperature, sizes if len(set(sizes)) > 1 else ())
    model.info = {**model.info, "members": {file: one.info for file, one in zip(files, models, strict=True)}}
    opt.assign(load_model_path=name or files[0], tta=given.tta, calibrate=given.calibrate)
    return opt, model.eval(), devices[0]
