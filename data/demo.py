"""Cats and dogs that hearth draws itself, for a first run without any data set."""

from pathlib import Path

from .demo_pictures import draw_data_set
from .dogcat import DogCat


class Demo(DogCat):
    """DogCat on drawn pictures: where the folder that holds `root` is missing, its train and test1 are drawn first."""

    def __init__(self, root, mode, **options):
        for folder in [root] if isinstance(root, (str, Path)) else root:
            draw_data_set(Path(folder).parent)
        super().__init__(root, mode, **options)
