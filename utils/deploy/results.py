"""What a model says about one picture, with names."""

import dataclasses
from typing import Any, NamedTuple


class Found(NamedTuple):
    """A class in a picture. score: its probability, of a detection its score, of a segmentation its share of the
    picture's pixels, from 0 to 1; box: (x1, y1, x2, y2) of an object in pixels of the upright picture, else None."""

    name: str
    score: float
    box: tuple[float, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What is in a picture.

    Attributes:
        path: its file.
        found: the classes or objects, the best first.
        detail: of a segmentation the class of every pixel, uint8 [H, W] of the picture's size; of a detection the
            objects that are drawn, tensors in pixels of the prepared picture; else None.
        error: why there is no prediction, or "".
    """

    path: str
    found: tuple[Found, ...] = ()
    detail: Any = None
    error: str = ""
