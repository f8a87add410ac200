"""How single pictures are prepared for a trained model, and what its predictions mean: for `predict` and `export`."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from utils.deploy.results import Found, Prediction
from utils.options.kinds import height_width

from .augment import MEAN, STD, normalise
from .images import in_threads, reason
from .mask_tables import PALETTE
from .masks import most_probable
from .read import MEAN_COLOR, position, read_center_crop, read_picture, read_square, upright_size
from .sheet import beside, photograph
from .split import picture_files

HOW = {"pad": f"with its proportions, in the middle of the colour {MEAN_COLOR}", "squeeze": "squeezed"}


class Preparation:
    """Pictures of any origin as a model takes them that was trained on labelled ones; the base of the others.

    Args:
        classes: their names, index = label.
        image_size, center_crop, interpolation: the options with which the model was trained.

    Attributes:
        how: how a picture gets its size, in words; mean, std: by which it is normalised, on a scale of 0 to 1.
    """

    how = "the largest part in the middle with the proportions of width x height, or of its sides the share center_crop"
    mean, std = MEAN, STD

    def __init__(
        self,
        classes: Sequence[str],
        image_size: int | str = 224,
        center_crop: float = 1.0,
        interpolation: str = "bilinear",
        **_: Any,
    ):
        self.classes, self.size = classes, height_width(image_size)
        self.center_crop, self.interpolation = center_crop, interpolation

    @staticmethod
    def pictures(folder: str) -> list[Path]:
        """The pictures in a folder. Raises UserError when there is none."""
        return picture_files(folder, "give a folder with pictures as --input")

    def stream(self, paths: Iterable[Any]) -> Iterator[tuple[Any, np.ndarray | None, Any]]:
        """Yield (path, pixels uint8 [h, w, 3], a fact for `result`) or (path, None, why it cannot be read); threads
        read a few files ahead."""

        def attempt(path: Any) -> tuple[Any, np.ndarray | None, Any]:
            try:
                return path, *self.read(path)
            except Exception as error:  # decoders raise anything
                return path, None, reason(error, path)

        return in_threads(attempt, paths)

    def read(self, path: Any) -> tuple[np.ndarray, Any]:
        """A file -> (uint8 [h, w, 3], what `result` has to know about it). Raises what decoders raise."""
        return read_center_crop(path, self.size, self.interpolation, self.center_crop)

    def batch(self, rows: list[np.ndarray], device: torch.device) -> Any:
        """What `read` returned for several pictures -> the model's input, here normalised float32 [N, 3, H, W]."""
        return normalise(torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).to(device))

    def result(self, path: Any, fact: Any, prediction: Any) -> Prediction:
        """A picture's part of the model's predictions, here probabilities [C], with names."""
        order = prediction.argsort(descending=True).tolist()
        return Prediction(str(path), tuple(Found(self.classes[label], float(prediction[label])) for label in order))

    def files(self, prediction: Prediction, draw: bool) -> Iterator[tuple[str, Image.Image]]:
        """Yield (what its name ends with, a picture to write); here the picture below its best class, if `draw`."""
        shown = photograph(prediction.path) if draw else None
        if shown is not None:
            best = prediction.found[0]
            yield "_drawn.png", as_image(beside([shown.permute(1, 2, 0).numpy()], [f"{best.name} {best.score:.3f}"]))


class MaskPreparation(Preparation):
    """The same for segmentation: the whole picture is taken, see `fit` of config.py, and each pixel has a class."""

    def __init__(self, classes: Sequence[str], fit: str = "squeeze", **options: Any):
        super().__init__(classes, **options)
        self.fit = fit  # a checkpoint that does not name it is older than "pad"
        self.how = f"the whole picture, {HOW[fit]}"

    def read(self, path: Any) -> tuple[np.ndarray, Any]:
        """See Preparation; the fact is ((width, height) of the picture, the rows and columns that it covers)."""
        place = position(path, self.size, self.fit)
        return read_square(path, self.size, fit=self.fit)[0], (upright_size(path), place)

    def result(self, path: Any, fact: Any, prediction: Any) -> Prediction:
        """Probabilities [C, h, w] -> the share of each class that occurs, and the mask."""
        size, (rows, columns) = fact
        mask = most_probable(prediction[:, rows, columns], *size)
        shares = np.bincount(mask.ravel(), minlength=len(self.classes)) / mask.size
        order = [label for label in np.argsort(-shares, kind="stable").tolist() if shares[label]]
        return Prediction(str(path), tuple(Found(self.classes[label], float(shares[label])) for label in order), mask)

    def files(self, prediction: Prediction, draw: bool) -> Iterator[tuple[str, Image.Image]]:
        """Always the mask, a palette PNG as `test` writes it; if `draw` also the mask over the picture."""
        mask = Image.fromarray(prediction.detail)
        mask.putpalette(PALETTE.tobytes())
        yield ".png", mask
        if draw:
            colors = PALETTE[prediction.detail]
            blend = Image.blend(read_picture(prediction.path), Image.fromarray(colors), 0.5)
            legend = [
                (f"{one.name} {one.score:.0%}", PALETTE[self.classes.index(one.name)]) for one in prediction.found
            ]
            yield "_drawn.png", as_image(beside([np.asarray(blend)], [Path(prediction.path).name], legend))


def as_image(drawn: torch.Tensor) -> Image.Image:
    """uint8 [3, H, W] -> an image."""
    return Image.fromarray(drawn.permute(1, 2, 0).contiguous().numpy())
