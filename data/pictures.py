"""Data sets of pictures with a label: reading any picture, leaving out broken ones, augmentation on the device."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from utils import UserError
from utils.files import write_csv
from utils.meters import ConfusionMeter

from .base import BaseData

NEVER_CERTAIN = 1e-6  # no probability is closer to 0 or 1
# Of ImageNet's pictures, on a scale of 0 to 1; usual for every network that was, or may be, trained on them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PictureData(BaseData):
    """Pictures in files. A subclass gives the files and labels to __init__; everything else is here.

    Items are (uint8 [3, S, S], label or id as int): in train mode the whole picture squeezed to S = 8/7 image_size (256
    for 224), in val and test mode the centre square, resized to S = image_size.

    Args:
        paths: list of files.
        targets: list of int, the labels, or in test mode the ids.
        mode: train, val or test.
        image_size: height and width of what `prepare` returns, pixels.
        min_crop: smallest share of the picture's area that a random crop keeps.
        noise: standard deviation of the Gaussian noise added in train mode, on a scale of 0 to 1.
    """

    def __init__(self, paths, targets, mode, image_size=224, min_crop=0.08, noise=0.0):
        self.mode, self.image_size, self.min_crop, self.noise = mode, image_size, min_crop, noise
        self.item_size = round(image_size * 8 / 7) if mode == "train" else image_size
        sound = readable(paths, self.item_size)
        self.paths = [path for path, good in zip(paths, sound, strict=True) if good]
        self.targets = [target for target, good in zip(targets, sound, strict=True) if good]
        self.broken = [path for path, good in zip(paths, sound, strict=True) if not good]
        self.broken_targets = [target for target, good in zip(targets, sound, strict=True) if not good]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        picture = read_picture(self.paths[index], self.item_size)
        if self.mode == "train":
            picture = picture.resize((self.item_size, self.item_size), Image.Resampling.BILINEAR)
        else:
            picture = ImageOps.fit(picture, (self.item_size, self.item_size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous(), self.targets[index]

    def prepare(self, input, target, generator):
        """uint8 [N, 3, S, S] -> normalised float32 [N, 3, image_size, image_size]; in train mode augmented."""
        input = input.float() / 255
        if self.mode == "train":
            input = random_crop_and_flip(input, self.image_size, self.min_crop, generator)
            if self.noise:
                input += self.noise * torch.randn(input.shape, generator=generator, device=input.device)
        mean, std = (torch.tensor(values, device=input.device).view(3, 1, 1) for values in (MEAN, STD))
        return (input - mean) / std, target

    def meter(self):
        """Confusion matrix of the classes."""
        return ConfusionMeter(self.classes)

    def write_results(self, path, ids, predictions):
        """A CSV with the header id,<class>,<class>,... and a row of probabilities per picture, in order of the ids."""
        write_csv(path, ["id", *self.classes], ([id, *shares] for id, shares in self.results(ids, predictions)))

    def results(self, ids, predictions):
        """Yield (id, probability of every class as text) in order of the ids.

        ids: list of int; predictions: list of probabilities [N, C]. Where a picture could not be read, all classes are
        as likely. None is exactly 0 or 1, which would cost an infinite log loss when it is wrong.
        """
        rows = dict(zip(ids, (row for batch in predictions for row in batch.tolist()), strict=True))
        rows |= dict.fromkeys(self.broken_targets, [1 / len(self.classes)] * len(self.classes))
        for id, row in sorted(rows.items()):
            yield id, [f"{min(max(share, NEVER_CERTAIN), 1 - NEVER_CERTAIN):.6f}" for share in row]


def random_crop_and_flip(images, size, min_crop, generator):
    """float [N, 3, S, S] -> [N, 3, size, size]: one random resized crop (Szegedy et al. 2014, arXiv:1409.4842: area of
    min_crop to 1, ratio of sides 3/4 to 4/3) and one coin for a horizontal flip per image."""
    n = len(images)

    def uniform(low, high):
        return low + (high - low) * torch.rand(n, generator=generator, device=images.device)

    area, log_ratio = uniform(min_crop, 1.0), uniform(np.log(3 / 4), np.log(4 / 3))
    width = (area * log_ratio.exp()).sqrt().clamp(max=1.0)
    height = (area / log_ratio.exp()).sqrt().clamp(max=1.0)
    # In affine_grid's coordinates the picture spans -1..1, a crop's centre within +-(1 - its share of the side).
    x, y = (1 - width) * uniform(-1, 1), (1 - height) * uniform(-1, 1)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(x)
    theta = torch.stack([width * flip, zero, x, zero, height, y], dim=1).view(n, 2, 3)
    grid = F.affine_grid(theta, [n, 3, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def read_picture(path, size=None):
    """A file as an upright RGB PIL image, whatever it is: grey, palette, CMYK, 16 bit, with alpha (laid on
    white) or turned by its EXIF tag. With `size` a JPEG may come smaller, its sides at least `size`, which is faster.

    Raises OSError or another of Pillow's errors when it cannot be decoded whole.
    """
    with Image.open(path) as picture:
        if size:
            picture.draft(None, (size, size))
        picture.load()
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith(("I", "F")):  # Pillow would clip 16 bits at 255
            values = np.asarray(picture, dtype=np.float32)
            usual = {"I;16": (65535,), "F": (1, 255, 65535)}.get(picture.mode[:4], (255, 65535))
            white = next((limit for limit in usual if values.max() <= limit), values.max())
            picture = Image.fromarray((values / white * 255).clip(0, 255).astype(np.uint8))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return picture.convert("RGB")


def readable(paths, size):
    """For each path, whether it can be decoded whole. Every picture is tried, in threads (Pillow frees the others)."""

    def decodes(path):
        try:
            read_picture(path, size)
        except Exception:  # decoders raise anything: OSError, SyntaxError, ValueError, struct.error, ...
            return False
        return True

    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # Pillow's notes on odd metadata
        return list(pool.map(decodes, paths))


def as_list(roots):
    """One folder or a list of them -> a list."""
    return [roots] if isinstance(roots, (str, Path)) else list(roots)


def folder_files(roots, why):
    """All files right in the folders `roots`, sorted by name. A missing folder is a UserError that ends with `why`."""
    files = []
    for root in as_list(roots):
        if not Path(root).is_dir():
            raise UserError(f"the folder {root} does not exist: {why}")
        files += sorted(path for path in Path(root).iterdir() if path.is_file())
    return files
