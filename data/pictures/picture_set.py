"""What all data sets of pictures share: how their pictures are opened, packed and cached."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.base import BaseData
from utils import UserError
from utils.notices import note
from utils.options.kinds import height_width

from .augment import Augment
from .images import Images, LazyImages, fits_on_device, in_threads, load_on_device
from .pack import NothingToPack, open_pack


def stored_size(image_size: int | str, mode: str) -> tuple[int, int]:
    """(height, width) of the stored images for an option image_size, pixels: 8/7 of it in train mode, which crops."""
    height, width = height_width(image_size)
    return (round(height * 8 / 7), round(width * 8 / 7)) if mode == "train" else (height, width)


def open_images(
    sources: Sequence[Any],
    read: Callable[[Any, tuple[int, int]], tuple[np.ndarray, Any]],
    size: tuple[int, int],
    name: str,
    pack: bool = False,
    pack_dir: str = "packs",
    channels: int = 3,
    also: Sequence[Any] = (),
) -> tuple[Images, list[Any]]:
    """The pictures of a data set: (images, facts).

    With `pack` they come from the pack in `pack_dir`, which is made first, unless there is one of these files in their
    present state. If that fails, a note gives the reason, and every file is decoded once, to find the broken ones.

    Args:
        sources: the file, or tuple of files, of each sample.
        read: a function of (source, size) -> (uint8 array [*size, channels], a fact: None or a JSON value); it raises
            an error for a broken source. Its name is part of a pack's key.
        size: (height, width) of every image, pixels.
        name: the beginning of the pack's file name, before the size and a hash.
        also: more sources, for which only the facts are needed.

    Returns:
        images: see above, by the sources' numbers. Drop broken ones first, see `select`.
        facts: what `read` returned for each of `sources` and then of `also`; for a broken one, the reason as text.
    """
    lazy = LazyImages(sources, read, (*size, channels))
    shown = size[0] if size[0] == size[1] else f"{size[1]}x{size[0]}"
    if pack and sources:
        try:
            return open_pack(Path(pack_dir, f"{name}_{shown}"), lazy, also)
        except OSError as error:
            own = Path(str(error.filename or pack_dir)).absolute().is_relative_to(Path(pack_dir).absolute())
            advice = "--pack-dir names another folder" if own else "let it be readable, or remove it"
            if not isinstance(error, NothingToPack):  # why, is among the facts below, of each picture
                note(
                    f"{name} is not packed into {pack_dir} ({error}): its pictures are decoded whenever they are used; "
                    f"{advice}"
                )
    return lazy, [fact for _, fact in in_threads(lazy.attempt, [*sources, *also])]


class PictureSet(BaseData):
    """A data set that reads its pictures from `images`, see open_images: the base of all picture data sets."""

    images: Any
    augment = Augment(224)  # of sets that change their pictures themselves: it is not used

    @property
    def train_sizes(self) -> Sequence[tuple[int, int]]:  # type: ignore[override]
        """(height, width) of the pictures that --train-image-size asks for."""
        return self.augment.train_sizes

    def begin_epoch(self, done: float) -> None:
        """Augment to the size for this share of the training, 0 to 1."""
        self.augment.begin_epoch(done)

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def no_workers_needed(self) -> bool:  # type: ignore[override]
        """Whether the pictures are decoded already."""
        return not isinstance(self.images, LazyImages)

    def cache_on(self, device: torch.device, cache: str) -> None:
        """Move the pictures into the device's memory if fits_on_device."""
        if fits_on_device(self.images, device, cache):
            self.images, self.cached_on_device = load_on_device(self.images, device), True

    def weigh(self, counts: list[int], unit: str, option: str) -> list[float]:
        """N / N_c of the classes, from the number of each class's training pictures or pixels (the `unit`). Raises
        UserError for the `option` when a class has none."""
        if 0 in counts:
            missing = self.classes[counts.index(0)]
            raise UserError(f"there is no training {unit} of {missing}: {option} needs some of every class")
        return [sum(counts) / count for count in counts]
