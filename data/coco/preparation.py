"""How single pictures are prepared for a detector, see data/pictures/preparation.py."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from data.pictures.preparation import Preparation, as_image
from data.pictures.read import fitted, read_picture, resized, upright_size
from utils.deploy.results import Found, Prediction

from .draw import SURE, overlay


class BoxPreparation(Preparation):
    """Upright pictures as large as fits into image_size, their ratio kept."""

    def read(self, path: Any) -> tuple[np.ndarray, tuple[float, float]]:
        """See Preparation; the fact is the factor from the model's pixels to the picture's, (in x, in y)."""
        width, height = upright_size(path)
        h, w = fitted(height, width, self.size)
        return resized(np.asarray(read_picture(path, max(self.size))), h, w), (width / w, height / h)

    def batch(self, rows: list[np.ndarray], device: torch.device) -> list[torch.Tensor]:
        """List of float32 [3, h, w] from 0 to 1, of any sizes."""
        return [torch.from_numpy(row).permute(2, 0, 1).to(device).float() / 255 for row in rows]

    def result(self, path: Any, fact: Any, prediction: Any) -> Prediction:
        """Detections of a picture -> its objects, with boxes in the picture's own pixels."""
        boxes = (prediction["boxes"].cpu() * torch.tensor([*fact, *fact])).tolist()
        rows = zip(prediction["labels"].tolist(), prediction["scores"].tolist(), boxes, strict=True)
        sure = prediction["scores"] >= SURE
        drawn = {name: values[sure].cpu() for name, values in prediction.items()}
        if "masks" in drawn:
            drawn["masks"] = drawn["masks"] > 0.5  # a fourth of the memory
        return Prediction(str(path), tuple(Found(self.classes[one], score, (*box,)) for one, score, box in rows), drawn)

    def files(self, prediction: Prediction, draw: bool) -> Iterator[tuple[str, Image.Image]]:
        """The picture with the objects that have a score of at least 0.5, if `draw`."""
        if draw:
            image = self.batch([self.read(prediction.path)[0]], torch.device("cpu"))[0]
            yield "_drawn.png", as_image(overlay(image, prediction.detail, self.classes))
