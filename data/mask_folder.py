"""Pictures and masks of your own, for segmentation."""

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from utils import UserError
from utils.files import write_atomically, write_csv
from utils.metrics.iou_meter import UNLABELLED, IoUMeter
from utils.notices import counted, note_once

from .pictures.augment import Augment, denormalise, normalise
from .pictures.folds import grouped, part_of_folds
from .pictures.mask_pairs import WHERE, images_folders, pairs
from .pictures.mask_reading import choose_reader, class_counts, read_names, too_large
from .pictures.mask_tables import PALETTE
from .pictures.masks import most_probable, strip
from .pictures.picture_set import PictureSet, open_images, stored_size
from .pictures.preparation import MaskPreparation
from .pictures.read import position, read_square, reader, upright_size
from .pictures.split import (
    Roots,
    Sample,
    as_list,
    digest,
    part_of,
    picture_files,
    shown,
    unique_ids,
)

WANTED = "2 to 255 are needed, with pixels of 0, 1, ... (255 is ignored)"


class MaskFolder(PictureSet):
    """Pictures in <root>/images and masks of the same stem in <root>/masks, split 70/30 into train and val by name.
    mask_pairs.py says which other names of folders and files are understood.

    A mask has its picture's size or proportions. A pixel's value, or the index of its palette, is its class; 255 is
    ignored. The lines of class_name.txt in the first root that has one name the classes; without it they are "class 0"
    to the largest value in the masks of `root`. mask_reading.py says which other masks are understood: 0 and 255, soft
    edges, colours, one file per object. In test mode the pictures are those of <root>/images or, without such a folder,
    of <root>; the ids are their stems.

    Items are (uint8 [3, H, W], mask uint8 [H, W] or id). They show the whole picture in image_size, in train mode in
    8/7 of it, so that every labelled pixel counts in the IoU: with its proportions, in the middle of the mean colour
    and of a mask of 255, or with fit "squeeze" in the proportions of image_size. A random crop of less than a third of
    the area may miss a picture of proportions beyond 2:1: its mask is all 255 then, and nothing is learned from it.

    Pictures without a mask, and masks without a picture, are ignored with a note. `broken` are files that cannot be
    decoded, and masks that differ in proportions from their picture, have colours or unknown classes, or are all 255.

    Args:
        root: one folder, or a list of them.
        mode: train, val or test.
        image_size: side of the square that `prepare` returns, pixels; or "320x192", width x height.
        crop_min_scale, flip, rotate, color_jitter, noise, train_image_size: how train mode changes pictures and masks,
            see Augment.
        val_data_root: folders like `root`; if there are any, they are val and all of `root` is train.
        val_size: maximum number of pictures in val mode.
        folds, fold, group: without val_data_root val gets one part of `folds`, see PictureFiles.
        class_weights: set `weights` to N / N_c in train mode, counted in pixels.
        fit: pad or squeeze, see above.
        pack: decode everything once, into a file in `pack_dir`, and read it from there; see open_images.
        pack_dir: the folder for that file.

    Raises UserError for missing folders, too few pictures with masks, masks that can be read in more than one way, and
    an invalid number of classes.
    """

    task = "segmentation"
    preparation = MaskPreparation
    whole_roots = True

    def __init__(
        self,
        root: Roots,
        mode: str,
        image_size: int | str = 224,
        crop_min_scale: float = 0.08,
        flip: float = 0.5,
        rotate: float = 0.0,
        color_jitter: float = 0.0,
        noise: float = 0.0,
        train_image_size: Sequence[int | str] = (),
        val_data_root: Roots = (),
        val_size: int | None = None,
        folds: int | None = None,
        fold: int | str | None = None,
        group: str | None = None,
        class_weights: bool = False,
        pack: bool = False,
        pack_dir: str = "packs",
        fit: str = "pad",
        **_: Any,
    ):
        self.mode, self.fit, read = mode, fit, reader(read_square, fit=fit)
        self.augment = Augment(image_size, crop_min_scale, flip, rotate, color_jitter, noise, train_image_size)
        size, name = stored_size(image_size, mode), f"{type(self).__name__}_{mode}"
        if mode == "test":
            own = opened = unlabelled(root)
            self.images, faults = open_images([sample.path for sample in own], read, size, name, pack, pack_dir)
            problems = {one: f"{one.path} ({why})" for one, why in zip(own, faults, strict=True) if why is not None}
        else:
            everything = labelled(root)
            own, opened = divide(everything, root, mode, val_data_root, val_size, (folds, fold, group))
            (home, names), mine = read_names(as_list(root), as_list(val_data_root)), set(opened)
            masks, names = choose_reader(home, names, [sample.target for sample in everything])
            # Masks that are not its own show how many classes there are, if no file names them.
            others = [] if names else [sample for sample in everything if sample not in mine]
            files, more = ([(sample.path, *sample.target) for sample in some] for some in (opened, others))
            self.images, facts = open_images(files, reader(masks, fit=fit), size, name, pack, pack_dir, 4, more)
            found = dict(zip([*opened, *others], facts, strict=True))
            problems = {sample: fact for sample, fact in found.items() if isinstance(fact, str)}
            sound = {sample: fact for sample, fact in found.items() if sample not in problems}
            counts_of = class_counts(masks, {sample.target: fact for sample, fact in sound.items()})
            pixels = {sample: counts_of[sample.target] for sample in sound}
            largest = max((max(pixels[sample]) for sample in everything if sample in pixels), default=-1)
            self.classes = names or [f"class {index}" for index in range(largest + 1)]
            if pixels and not 2 <= len(self.classes) <= UNLABELLED:
                raise UserError(f"{shown(root)} has {counted(len(self.classes), 'class', 'classes')}: {WANTED}")
            beyond = {one: max(counts) for one, counts in pixels.items() if max(counts) >= len(self.classes)}
            problems |= {
                one: f"{one.target[0]} ({too_large(label, self.classes, names)})" for one, label in beyond.items()
            }
        self.broken = [problems[sample] for sample in own if sample in problems]
        self.ids = [sample.target for sample in own]  # in test mode, broken ones too
        self.samples = [sample for sample in own if sample not in problems]
        kept = set(self.samples)
        self.images.select([number for number, sample in enumerate(opened) if sample in kept])
        if class_weights and mode == "train":
            counts = [sum(pixels[one].get(index, 0) for one in self.samples) for index in range(len(self.classes))]
            self.weights = self.weigh(counts, "pixel", "--class-weights")

    def covered(self, pixels: torch.Tensor, path: Path) -> torch.Tensor:
        """What the picture of this file covers of its pixels or their probabilities, [C, H, W] -> [C, h, w]."""
        rows, columns = position(path, tuple(pixels.shape[1:]), self.fit)
        return pixels[:, rows, columns]

    def picture(self, index: int) -> tuple[torch.Tensor, str]:
        """A sample to show: (its picture, uint8 [3, h, w], without what is around it; its name)."""
        return self.covered(self[index][0], self.samples[index].path), self.samples[index].name

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        id, row = self.samples[index].target, self.images[[index]][0].cpu()
        return row[..., :3].permute(2, 0, 1), id if self.mode == "test" else row[..., 3]

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, Any]:
        """A batch: (uint8 [n, 3, H, W], masks uint8 [n, H, W] or a list of ids)."""
        rows = self.images[indices]
        pictures = rows[..., :3].contiguous().permute(0, 3, 1, 2)  # channels_last in memory
        if self.mode == "test":
            return pictures, [self.samples[index].target for index in indices]
        return pictures, rows[..., 3].contiguous()

    def prepare(self, input: torch.Tensor, target: Any, generator: torch.Generator | None) -> tuple[torch.Tensor, Any]:
        """uint8 [N, 3, H, W] -> normalised float32 [N, 3, h, w] of image_size, masks uint8 [N, H, W] -> int64
        [N, h, w]. In train mode both are augmented together. Ids are returned unchanged."""
        if self.mode == "train":
            input, target = self.augment(input, generator, target)
        else:
            input = normalise(input)
        return input, target if self.mode == "test" else target.long()

    def meter(self) -> IoUMeter:
        """IoU of the classes."""
        return IoUMeter(self.classes)

    def draw(self, input: torch.Tensor, target: torch.Tensor, prediction: torch.Tensor | None) -> list[torch.Tensor]:
        """Strips picture | prediction | truth of a batch's first four samples, uint8 [3, H, W], see `strip`."""
        pictures = (denormalise(input[:4]) * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        truth = target[:4].cpu().numpy()
        masks = [None] * len(truth) if prediction is None else prediction[:4].argmax(dim=1).cpu().numpy()
        return [strip(*one, self.classes) for one in zip(pictures, masks, truth, strict=True)]

    def write_results(self, path: str | Path, predictions: Iterable[tuple[list[Any], Any]]) -> None:
        """Write the most probable classes as a palette PNG of each picture's own size, into the folder `path` without
        its suffix; and at `path` a CSV with the header id,mask, whose paths are relative to the CSV and empty for
        pictures that could not be read. Raises UserError for a path without a suffix."""
        path, pictures = Path(path), {id: picture for picture, id, _ in self.samples}
        folder = path.with_suffix("")
        if folder == path:
            raise UserError(f"--result-file={path} has no suffix, but the masks need a folder of that name: add .csv")
        folder.mkdir(exist_ok=True)
        rows = dict.fromkeys(self.ids, "")
        for ids, batch in predictions:
            for id, probability in zip(ids, batch, strict=True):
                one = pictures[id]
                mask = Image.fromarray(most_probable(self.covered(probability, one), *upright_size(one)))
                mask.putpalette(PALETTE.tobytes())
                write_atomically(folder / f"{id}.png", partial(mask.save, format="PNG"), binary=True)
                rows[id] = f"{folder.name}/{id}.png"
        write_csv(path, ["id", "mask"], sorted(rows.items()))


def unlabelled(roots: Roots) -> list[Sample]:
    """Samples (picture, id, name) to predict. Raises UserError when there is none, or when two have the same id."""
    paths = picture_files([one for root in as_list(roots) for one in images_folders(root)], "give a folder of pictures")
    return unique_ids([Sample(path, path.stem, path.name) for path in paths])


def divide(
    everything: list[Sample], root: Roots, mode: str, val_data_root: Roots, val_size: int | None, divided: Any
) -> tuple[list[Sample], list[Sample]]:
    """(the samples of train or val mode, those that share their pack) of everything in `root`. divided: folds, fold,
    group; all folds have one pack."""
    own = labelled(val_data_root) if mode == "val" and val_data_root else everything
    if not divided[0] or val_data_root:
        own = part_of(own, mode, val_data_root, val_size, f"{shown(root)} has one picture with a mask")
        return own, own
    groups = grouped([sample.name for sample in own], divided[2])
    own = part_of_folds(own, [0] * len(own), groups, ["picture with a mask"], divided, mode)
    return own[: val_size if mode == "val" else None], everything


def labelled(roots: Roots) -> list[Sample]:
    """Samples (picture, its masks' files, name), ordered by a hash of their names. Raises UserError when there is none.
    A note lists the files without a partner."""
    samples: list[Sample] = []
    alone: list[str] = []
    for root in as_list(roots):
        images, masks = pairs(root)
        samples += [Sample(path, masks[name], path.name) for name, path in images.items() if name in masks]
        alone += [str(path) for name, path in images.items() if name not in masks]
        alone += [str(files[0]) for name, files in masks.items() if name not in images]
    if not samples:
        raise UserError(f"no picture in {shown(roots)} has a mask ({len(alone)} of one without the other): {WHERE}")
    if alone:
        some = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
        note_once(f"ignoring {counted(len(alone), 'picture or mask', 'pictures and masks')} without the other: {some}")
    return sorted(samples, key=digest)
