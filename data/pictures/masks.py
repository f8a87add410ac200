"""Masks: the class of every pixel, read from a file and shown in colours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from utils import UserError
from utils.metrics.iou_meter import UNLABELLED

from .images import reason
from .mask_arrays import ARRAYS, read_array
from .mask_tables import PALETTE, packed, shown_color
from .read import position, read_square, upright_size
from .sheet import beside

LIST = "colors.txt beside the folder of pictures, lines `red green blue name`"


class MaskReader:
    """Reads a picture with its mask, or one mask per object, for open_images.

    Args:
        values: the class of each value of a grey mask, or index of a palette, uint8 [256]; None: the value itself.
        colors: {packed colour: class}; if given, colours count, those of a palette too.
        where: what gives the colours, for errors.
        objects: {a file's name without suffix: class of its object}, any other one's is 1; None where a mask is a file.
    """

    version = 3  # of the facts: a pack that has other ones is made again

    def __init__(
        self,
        values: np.ndarray | None = None,
        colors: Mapping[int, int] | None = None,
        where: str = "",
        objects: Mapping[str, int] | None = None,
    ):
        self.values = np.arange(256, dtype=np.uint8) if values is None else values
        self.colors, self.where, self.objects = colors, where, objects
        options = [None if values is None else values.tolist(), colors, objects]
        self.__name__ = "with_mask" + "".join(
            f" {one}" for one in options if one is not None
        )  # a part of a pack's name

    def __call__(
        self, files: tuple[Path, ...], size: tuple[int, int], fit: str = "squeeze"
    ) -> tuple[np.ndarray, list[list[int]]]:
        """(a picture, its mask or masks) -> both in size, (height, width), see read_square: (uint8 [*size, 4], whose
        last channel is the mask, 255 around the picture, [[value, number of its pixels in the file], ...], of a palette
        also its packed colour). The value is the class where colours or objects are read. Raises UserError that names
        the broken file."""
        path, *targets = files
        try:
            picture, _ = read_square(path, size, fit=fit)
            width, height = upright_size(path)
            place = position(path, size, fit)
        except Exception as error:  # decoders raise anything, see LazyImages.attempt
            raise UserError(f"{path} ({reason(error, path)})") from error
        mask, facts = self.one(targets[0]) if self.objects is None else self.union(targets)
        h, w = mask.shape
        if abs(h * width - w * height) >= max(width, height):  # a pixel of rounding changes the ratio
            raise UserError(f"{targets[0]} ({w}x{h}, but its picture {width}x{height})")
        labels = np.full(size, UNLABELLED, dtype=np.uint8)
        covered = labels[place]  # a view
        covered[:] = Image.fromarray(mask).resize(covered.shape[::-1], Image.Resampling.NEAREST)
        return np.dstack([picture, labels]), facts

    def one(self, target: Path) -> tuple[np.ndarray, list[list[int]]]:
        """(classes uint8 [h, w], facts) of a mask. Raises UserError."""
        pixels, palette = open_mask(target)
        if self.colors is not None:
            return self.colored(target, pixels, palette)
        if pixels.ndim == 3:
            color = shown_color(packed(pixels).max())
            raise UserError(f"{target} (it has colours, {color} say, and no file says whose: write {LIST})")
        counts = np.bincount(pixels.ravel(), minlength=256)
        present = counts.nonzero()[0]
        if not (self.values[present] != UNLABELLED).any():
            raise UserError(f"{target} (all {' or '.join(map(str, present))}, which is ignored)")
        columns = [present, counts[present]] + ([] if palette is None else [packed(palette[present])])
        return self.values[pixels], np.stack(columns, axis=1).tolist()

    def colored(
        self, target: Path, pixels: np.ndarray, palette: np.ndarray | None
    ) -> tuple[np.ndarray, list[list[int]]]:
        """`one`, of open_mask's result, by its colours."""
        grey = np.arange(256).repeat(3).reshape(256, 3)
        colors = packed(pixels) if pixels.ndim == 3 else packed(grey if palette is None else palette)[pixels]
        keys = np.array(sorted(self.colors or ()))
        places = np.searchsorted(keys, colors).clip(max=len(keys) - 1)
        unknown = colors[keys[places] != colors]
        if unknown.size:
            number = len(np.unique(unknown))
            more = f" and {number - 1} more" if number > 1 else ""
            raise UserError(f"{target} (its colour {shown_color(unknown[0])}{more} is not in {self.where})")
        mask = np.array([(self.colors or {})[key] for key in keys.tolist()], dtype=np.uint8)[places]
        counts = np.bincount(mask.ravel(), minlength=256)
        if counts[:UNLABELLED].sum() == 0:
            raise UserError(f"{target} (all of its colours are ignored)")
        return mask, [[int(label), int(counts[label])] for label in counts.nonzero()[0]]

    def union(self, targets: Sequence[Path]) -> tuple[np.ndarray, list[list[int]]]:
        """`one`, of masks with an object each: 0 where there is none. Raises UserError also where they differ in size
        or are not of two values."""
        mask = np.zeros((0, 0), dtype=np.uint8)
        for target in targets:
            pixels, _ = open_mask(target)
            if pixels.ndim == 3 or 1 < pixels.max() < 128:
                raise UserError(f"{target} (one file per object holds 0 and 1, or 0 and 255)")
            mask = mask if mask.size else np.zeros(pixels.shape, dtype=np.uint8)
            if pixels.shape != mask.shape:
                raise UserError(f"{target} (it and {targets[0].name} differ in size)")
            mask[pixels > pixels.max() // 2] = (self.objects or {}).get(target.stem, 1)
        counts = np.bincount(mask.ravel())
        return mask, [[int(label), int(counts[label])] for label in counts.nonzero()[0]]


def open_mask(target: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """A mask's (pixels, palette): uint8 [h, w], with the palette uint8 [256, 3] where they are its indices; or where
    its channels differ, colours uint8 [h, w, 3]. Raises UserError that names the file."""
    palette: Any = None
    try:
        if target.suffix.lower() in ARRAYS:
            return narrowed(target, read_array(target)), None
        with Image.open(target) as file:
            if file.mode in ("P", "PA"):
                own = file.getpalette("RGB") or []
                palette = np.array(own + [0] * (768 - len(own)), dtype=np.uint8).reshape(256, 3)
            plain = file.mode in ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "F") or file.mode.startswith("I")
            pixels = np.asarray(file if plain else file.convert("RGB"))
    except UserError:
        raise
    except Exception as error:  # decoders raise anything
        raise UserError(f"{target} ({reason(error, target)})") from error
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        if pixels[..., -1].min() < pixels[..., -1].max():
            raise UserError(f"{target} (it has transparent pixels: save it without transparency)")
        pixels = pixels[..., :-1]
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]  # grey
    return narrowed(target, pixels), palette


def narrowed(target: Path, pixels: np.ndarray) -> np.ndarray:
    """Whole numbers of any type -> uint8; of 16 bits white is 255. Raises UserError where they are no classes."""
    if pixels.dtype == np.uint8:
        return pixels
    values = np.unique(pixels)
    if values.max() > UNLABELLED and not (values % 257).any() and values.max() <= 65535:
        pixels = pixels // 257  # stretched from 8 bits
    pixels = np.where(pixels == 65535, UNLABELLED, pixels)
    classes = pixels.astype(np.uint8)
    wrong = pixels[classes != pixels]
    if wrong.size:
        raise UserError(
            f"{target} (a pixel is {wrong.max():g}; classes are whole numbers from 0 to 254, and 255 is ignored)"
        )
    return classes


def most_probable(probability: torch.Tensor, width: int, height: int) -> np.ndarray:
    """Probabilities [C, h, w] -> classes uint8 [height, width]. One class is enlarged at a time: all classes of a large
    photograph would take gigabytes."""
    best = torch.full((height, width), -1.0, device=probability.device)
    label = torch.zeros((height, width), dtype=torch.uint8, device=probability.device)
    for index, share in enumerate(probability):
        share = F.interpolate(share[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]
        label[share > best] = index
        best = torch.maximum(best, share)
    return label.cpu().numpy()


def strip(picture: np.ndarray, predicted: np.ndarray | None, truth: np.ndarray, classes: Sequence[str]) -> torch.Tensor:
    """Picture | prediction | truth, with headings and a legend of the classes that occur, uint8 [3, H, W].

    picture: uint8 [h, w, 3]; predicted, truth: classes, integers [h, w], or 255; without a prediction two pictures.
    """
    shown = {"picture": picture}
    if predicted is not None:
        right = 100 * (predicted == truth)[truth != UNLABELLED].mean() if (truth != UNLABELLED).any() else 0.0
        shown[f"prediction, {right:.0f} % right"] = PALETTE[predicted]
    shown["truth"] = PALETTE[truth]
    names = {**dict(enumerate(classes)), UNLABELLED: "ignored"}
    occurring = np.union1d(truth if predicted is None else predicted, truth).tolist()
    return beside([*shown.values()], [*shown], [(names[label], PALETTE[label]) for label in occurring])
