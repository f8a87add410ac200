"""Pictures in squares as they are stored, and turned where their annotations are those of the upright picture."""

from pathlib import Path

import numpy as np
import torch

from data.pictures.read import fitted, open_picture, orientation, read_picture, resized

from .format import Picture

# EXIF orientation: the axes to flip, after rows and columns are exchanged for 5 to 8
FLIPS = {1: (), 2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}


def as_stored(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
    """A picture as stored, in the upper left corner of a black square or rectangle, for open_images: (uint8 [*size, 3],
    [height, width, EXIF orientation] of the file)."""
    picture = read_picture(path, max(size), upright=False)
    with open_picture(path) as file:
        width, height = file.size
        turn = orientation(file)
    h, w = fitted(height, width, size)
    square = np.zeros((*size, 3), dtype=np.uint8)
    square[:h, :w] = resized(np.asarray(picture), h, w)
    return square, [height, width, turn if turn in FLIPS else 1]


def place(picture: Picture, fact: list[int] | str, upright: bool, exif: str = "auto") -> Picture | str:
    """A Picture with its size, and turned if its annotations are for the upright picture: as `exif` says, or for "auto"
    as their size tells, or without one as `upright` says; or the line of `broken` about it. fact: see as_stored, or the
    reason why it is broken."""
    if isinstance(fact, str):
        return f"{picture.path} ({fact})"
    height, width, turn = fact
    ways = {"stored": (height, width, 1), "upright": (width, height, turn) if turn > 4 else (height, width, turn)}
    usual = "upright" if upright else "stored"
    for way in [exif] if exif != "auto" else ["stored", "upright"] if picture.height else [usual]:
        if ways[way][:2] == (picture.height or ways[way][0], picture.width or ways[way][1]):
            return picture._replace(**dict(zip(("height", "width", "turn"), ways[way], strict=True)))
    return f"{picture.path} ({width}x{height}, its annotations say {picture.width}x{picture.height})"


def is_doubtful(picture: Picture, fact: list[int]) -> bool:
    """Whether a Picture's file has an EXIF orientation, and its annotations no size that would be another with it."""
    height, width, exif = fact
    return exif > 1 and (exif < 5 or height == width or not picture.height)


def turned(square: torch.Tensor, picture: Picture, frame: tuple[int, int]) -> torch.Tensor:
    """A square or rectangle uint8 [H, W, 3] of as_stored with its picture turned by its EXIF orientation; `frame` is
    the size (h, w) that it has then."""
    upright = picture.height, picture.width
    h, w = fitted(*(upright if picture.turn < 5 else upright[::-1]), (square.shape[0], square.shape[1]))
    stored = square[:h, :w] if picture.turn < 5 else square[:h, :w].transpose(0, 1)
    stored = stored.flip(FLIPS[picture.turn])
    if tuple(stored.shape[:2]) != frame:  # it lies in the rectangle in another size than it stood
        stored = torch.from_numpy(resized(stored.numpy(), *frame))
    result = torch.zeros_like(square)
    result[: frame[0], : frame[1]] = stored
    return result
