"""Masks: the class of every pixel, read from a file and shown in colours."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from utils import UserError
from utils.metrics.iou_meter import UNLABELLED

from .images import reason
from .read import read_square, upright_size
from .sheet import beside

# PASCAL VOC's colours: the bits of the class, lowest first, set those of red, green and blue in turn, highest first.
PALETTE = np.array(
    [
        [sum((i >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
        for i in range(256)
    ],
    dtype=np.uint8,
)


def with_mask(files: tuple[Path, Path], size: int) -> tuple[np.ndarray, list[list[int]]]:
    """A picture and its mask, both resized to a square, for open_images: (uint8 [size, size, 4], whose last channel is
    the mask, [[class, number of its pixels in the file], ...]). Raises UserError that names the broken file."""
    path, target = files
    try:
        picture, _ = read_square(path, size)
        width, height = upright_size(path)
    except Exception as error:  # decoders raise anything, see LazyImages.attempt
        raise UserError(f"{path} ({reason(error, path)})") from error
    try:
        with Image.open(target) as file:
            mask = np.asarray(file)  # [H, W] if it is grey, black and white or has a palette
    except Exception as error:
        raise UserError(f"{target} ({reason(error, target)})") from error
    if mask.ndim != 2:
        raise UserError(f"{target} (it has colours or transparency: a grey or palette PNG is needed)")
    if mask.shape != (height, width):
        raise UserError(f"{target} ({mask.shape[1]}x{mask.shape[0]}, but its picture {width}x{height})")
    counts = np.bincount(mask.ravel())
    pixels = [[int(label), int(counts[label])] for label in counts.nonzero()[0] if label != UNLABELLED]
    if not pixels:
        raise UserError(f"{target} (all 255, which is ignored)")
    largest, _ = pixels[-1]
    if largest > UNLABELLED:
        raise UserError(f"{target} (a pixel is {largest}; 254 is the largest class)")
    square = Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.dstack([picture, np.asarray(square)]), pixels


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
