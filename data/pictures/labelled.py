"""Data sets of pictures with a label: items, balanced classes, augmentation on the device, drawing, results."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from utils.files import write_csv
from utils.metrics.class_meter import NEVER_CERTAIN, ClassMeter
from utils.metrics.meters import ConfusionMeter
from utils.options.kinds import height_width

from .augment import Augment, denormalise, normalise
from .images import ImagesInMemory
from .picture_set import PictureSet, open_images, stored_size
from .preparation import Preparation
from .read import middle, read_center_crop, read_square, reader
from .sheet import DRAWN, compared, photograph
from .split import balanced


class PictureData(PictureSet):
    """Pictures with a label. A subclass sets `classes`, then passes files and labels to __init__.

    Items are (uint8 [3, H, W], label or id): in train mode the whole picture, squeezed into 8/7 image_size (256 for
    224), in val and test mode, or without `augment`, the largest part in its middle with the proportions of image_size,
    or of its sides the share `center_crop`.

    Args:
        paths: list of files.
        targets: list of int, the labels; in test mode the ids, numbers or text.
        mode: train, val or test.
        image_size: side of the square that `prepare` returns, pixels; or "320x192", width x height.
        interpolation: how pictures are resized when they are read, bilinear or bicubic.
        crop_min_scale, flip, rotate, color_jitter, noise, random_erasing, mixup, cutmix, train_image_size:
            augmentation, see Augment.
        resample: balance the classes in every epoch of train mode, see `order`: none, mean, log or sqrt.
        class_weights: set `weights` to N / N_c in train mode.
        own: the numbers of those of `paths` that are this data set's, None: all; others only share its pack.
        pixels: the pictures, if they are decoded already, uint8 [N, H, W, 3] of any size; `paths` then only name them.
        pack: decode every picture once, into a file in `pack_dir`, and read it from there; see open_images.
        pack_dir: the folder for that file.
        labels: write_results writes classes, not probabilities.

    Raises UserError when there is no picture of a class to resample or weigh.
    """

    preparation = Preparation

    def __init__(
        self,
        paths: Sequence[Any],
        targets: Sequence[Any],
        mode: str,
        image_size: int | str = 224,
        center_crop: float = 1.0,
        interpolation: str = "bilinear",
        augment: bool = True,
        crop_min_scale: float = 0.08,
        flip: float = 0.5,
        rotate: float = 0.0,
        color_jitter: float = 0.0,
        noise: float = 0.0,
        random_erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        train_image_size: Sequence[int | str] = (),
        resample: str = "none",
        class_weights: bool = False,
        own: Sequence[int] | None = None,
        pixels: torch.Tensor | None = None,
        pack: bool = False,
        pack_dir: str = "packs",
        labels: bool = False,
        **_: Any,
    ):
        self.mode, self.size, self.labels, self.interpolation = mode, height_width(image_size), labels, interpolation
        self.augmented = augment and mode == "train"
        changes = crop_min_scale, flip, rotate, color_jitter, noise, train_image_size, random_erasing, mixup, cutmix
        self.augment = Augment(image_size, *changes)
        if pixels is None:
            size = stored_size(image_size, "train" if self.augmented else "val")
            cropped = reader(read_center_crop, interpolation=interpolation, share=center_crop)
            read = reader(read_square, interpolation=interpolation) if self.augmented else cropped
            self.images, faults = open_images(paths, read, size, f"{type(self).__name__}_{mode}", pack, pack_dir)
            own = range(len(paths)) if own is None else own
            sound = [number for number in own if faults[number] is None]
            self.images.select(sound)
            self.broken = [f"{paths[number]} ({faults[number]})" for number in own if faults[number] is not None]
        else:
            pixels = pixels if self.augmented or center_crop == 1 else middle(pixels, self.size, center_crop)
            self.images, sound, self.broken = ImagesInMemory(pixels), list(range(len(paths))), []
        self.paths, self.targets = [paths[number] for number in sound], [targets[number] for number in sound]
        self.ids = list(targets)  # including broken ones: in test mode each gets its row

        self.resampling = resample if mode == "train" else "none"
        if mode == "train":
            labels = torch.tensor(self.targets, dtype=torch.int64)
            self.counts = torch.bincount(labels, minlength=len(self.classes)).tolist()
        if mode == "train" and (class_weights or resample != "none"):
            weights = self.weigh(
                self.counts, "picture", "--class-weights" if class_weights else f"--resample={resample}"
            )
            if class_weights:
                self.weights = weights

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        target = self.targets[index]
        return self.images[[index]][0].permute(2, 0, 1).cpu(), target

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, Any]:
        """A batch: (uint8 [n, 3, H, W], labels or ids as int64 [n], or a list of text)."""
        targets: Any = [self.targets[index] for index in indices]
        targets = targets if isinstance(targets[0], str) else torch.tensor(targets)
        return self.images[indices].permute(0, 3, 1, 2), targets  # channels_last in memory, fastest on the device

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """The samples of one epoch, int64 indices drawn from `generator`, always as many; see `balanced`."""
        if self.resampling == "none":
            return super().order(generator)
        return balanced(torch.tensor(self.targets), self.resampling, generator)

    def prepare(self, input: torch.Tensor, target: Any, generator: torch.Generator | None) -> tuple[torch.Tensor, Any]:
        """uint8 [N, 3, H, W] -> normalised float32 [N, 3, h, w] of image_size; in train mode augmented, and with mixup
        or cutmix the labels int64 [N] become shares float32 [N, C]."""
        if self.augmented:
            input, _ = self.augment(input, generator)
            return self.augment.mix(input, target, len(self.classes), generator)
        if input.shape[2:] != self.size:  # torch resizes bytes on a CPU only
            input = F.interpolate(input.float(), self.size, mode=self.interpolation, antialias=True)
            input = input.round().clamp(0, 255).byte()
        return normalise(input), target

    def meter(self) -> ConfusionMeter:
        """Confusion matrix of the classes; in val mode with a report on classes, probabilities and mistakes."""
        if self.mode == "train":
            return ConfusionMeter(self.classes)
        return ClassMeter(self.classes, picture=self.picture)

    def picture(self, index: int) -> tuple[torch.Tensor, str]:
        """A sample to show: (its photograph, uint8 [3, H, W], or where that is gone what the model sees; its name)."""
        path, shown = self.paths[index], photograph(self.paths[index])
        return self[index][0] if shown is None else shown, "/".join(Path(path).parts[-2:])

    def draw(self, input: torch.Tensor, target: torch.Tensor, prediction: torch.Tensor | None) -> list[torch.Tensor]:
        """One picture, uint8 [3, H, W], see `compared`. input: [N, 3, H, W] as prepared; target: int64 [N], or with
        mixup or cutmix float [N, C]; prediction: probabilities [N, C], or None."""
        return [compared(denormalise(input[:DRAWN].float()), self.classes, target, prediction)]

    def write_results(self, path: str, predictions: Iterable[tuple[list[Any], Any]]) -> None:
        """Write a CSV with the header id,<class>,<class>,... and a row of probabilities per picture, in their order; or
        with `labels` the header id,label and the most probable class."""
        results = self.results(predictions)
        if self.labels:
            write_csv(path, ["id", "label"], ([id, self.classes[shares.index(max(shares))]] for id, shares in results))
        else:
            write_csv(path, ["id", *self.classes], ([id, *shares] for id, shares in results))

    def results(self, predictions: Iterable[tuple[list[Any], Any]]) -> Iterator[tuple[Any, list[str]]]:
        """Yield (id, probability of every class as text) in the order of the data set.

        predictions: (list of ids, probabilities [N, C]) of each batch. A picture that could not be read gets the same
        probability for all classes. None is exactly 0 or 1, whose log loss would be infinite when it is wrong.
        """
        rows = {id: row for ids, batch in predictions for id, row in zip(ids, batch.tolist(), strict=True)}
        undecided = [1 / len(self.classes)] * len(self.classes)
        for id in self.ids:
            shares = rows.get(id, undecided)
            yield id, [f"{min(max(share, NEVER_CERTAIN), 1 - NEVER_CERTAIN):.6f}" for share in shares]
