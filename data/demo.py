"""Cats and dogs that hearth draws itself, for a first run without any data set."""

from pathlib import Path

from .demo_pictures import draw_data_set
from .dogcat import DogCat
from .pictures import as_list


class Demo(DogCat):
    """DogCat on drawn pictures: in train mode they are drawn first, where the folder that holds `root` is missing."""

    def __init__(self, root, mode, **options):
        for folder in as_list(root) if mode == "train" else ():
            draw_data_set(Path(folder).parent)
        super().__init__(root, mode, **options)
