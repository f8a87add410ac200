"""Cats and dogs that hearth draws itself, for a first run without any data set."""

from pathlib import Path
from typing import Any

from .dogcat import DogCat
from .pictures.cartoons import draw_data_set
from .pictures.split import Roots, as_list


class Demo(DogCat):
    """DogCat on drawn pictures. Train mode draws them first, if the parent folder of `root` is missing."""

    where = "`python main.py train --config=Demo` draws its pictures, if the folder above is not there yet"

    def __init__(self, root: Roots, mode: str, **options: Any):
        for folder in as_list(root) if mode == "train" else ():
            draw_data_set(Path(folder).parent)
        super().__init__(root, mode, **options)
