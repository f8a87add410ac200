"""Pictures in squares as they are stored, and turned where their annotations are those of the upright picture."""

import contextlib
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image

from data.pictures.read import read_picture, resized

from .format import Picture

# EXIF orientation: the axes to flip, after rows and columns are exchanged for 5 to 8
FLIPS = {1: (), 2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}


def as_stored(path: Path, side: int) -> tuple[np.ndarray, list[int]]:
    """A picture as stored, in the upper left corner of a black square, for open_images: (uint8 [side, side, 3],
    [height, width, EXIF orientation] of the file)."""
    picture = read_picture(path, side, upright=False)
    with Image.open(path) as file:
        width, height = file.size
        orientation = 1
        with contextlib.suppress(Exception):  # odd EXIF data raise anything, and the picture is sound without them
            orientation = file.getexif().get(ExifTags.Base.Orientation, 1) if "exif" in file.info else 1
    h, w = fitted(height, width, side)
    square = np.zeros((side, side, 3), dtype=np.uint8)
    square[:h, :w] = resized(np.asarray(picture), h, w)
    return square, [height, width, orientation if orientation in FLIPS else 1]


def fitted(height: int, width: int, side: int) -> tuple[int, int]:
    """(h, w) of a picture whose longer side becomes `side`."""
    scale = side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def place(picture: Picture, fact: list[int] | str, upright: bool) -> Picture | str:
    """A Picture with its size, and turned if its annotations are for the upright picture, which their size tells; or
    the line of `broken` about it. fact: see as_stored, or the reason why it is broken; upright: how a picture lies
    whose annotations have no size."""
    if isinstance(fact, str):
        return f"{picture.path} ({fact})"
    height, width, orientation = fact
    turned = (width, height) if orientation > 4 else (height, width)
    said = (picture.height, picture.width) if picture.height else turned if upright else (height, width)
    if said == (height, width) and (picture.height or not upright):
        return picture._replace(height=height, width=width)
    if said == turned:
        return picture._replace(height=said[0], width=said[1], turn=orientation)
    return f"{picture.path} ({width}x{height}, its annotations say {picture.width}x{picture.height})"


def is_doubtful(picture: Picture, fact: list[int], turn: int) -> bool:
    """Whether a Picture was placed with no `turn` although its file has an EXIF orientation, and its annotations' size,
    if there is one, would be the same with it."""
    height, width, orientation = fact
    return orientation > turn and (orientation < 5 or height == width or not picture.height)


def turned(square: torch.Tensor, orientation: int, frame: tuple[int, int]) -> torch.Tensor:
    """A square uint8 [S, S, 3] of as_stored with its picture turned by an EXIF orientation; `frame` is the size (h, w)
    that it has then."""
    h, w = frame if orientation < 5 else frame[::-1]
    picture = square[:h, :w] if orientation < 5 else square[:h, :w].transpose(0, 1)
    result = torch.zeros_like(square)
    result[: frame[0], : frame[1]] = picture.flip(FLIPS[orientation])
    return result
