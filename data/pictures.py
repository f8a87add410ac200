"""Data sets of pictures with a label: reading any picture, leaving out broken ones, augmentation on the device."""

import errno
import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch.nn import functional as F

from utils import UserError
from utils.files import write_csv
from utils.meters import ConfusionMeter

from .base import BaseData
from .samples import as_list

NEVER_CERTAIN = 1e-6  # no probability is closer to 0 or 1
DRAWN, TILE = 16, 160  # pictures of a batch that are drawn; pixels that each is wide at least
# Of ImageNet's pictures, on a scale of 0 to 1; usual for every network that was, or may be, trained on them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PictureData(BaseData):
    """Pictures with a label. A subclass gives files and labels to __init__, after it has set `classes`.

    Items are (uint8 [3, S, S], label or id): in train mode the whole picture squeezed to S = 8/7 image_size (256 for
    224), in val and test mode the centre square, resized to S = image_size.

    Args:
        paths: list of files.
        targets: list of int, the labels, or in test mode the ids, numbers or text.
        mode: train, val or test.
        image_size: height and width of what `prepare` returns, pixels.
        min_crop: smallest share of the picture's area that a random crop keeps.
        noise: standard deviation of the Gaussian noise added in train mode, on a scale of 0 to 1.
        in_memory: decode every picture once, now, and keep it.
        resample: balance the classes in every epoch of train mode, see `order`: none, mean, log or sqrt.
        class_weights: let `weights` be N / N_c in train mode.
        pixels: the pictures themselves where they are decoded already, uint8 [N, 3, H, W] of any size; then `paths`
            only name them.

    Raises UserError when there is no picture of a class to resample or weigh.
    """

    def __init__(
        self,
        paths,
        targets,
        mode,
        image_size=224,
        min_crop=0.08,
        noise=0.0,
        in_memory=False,
        resample="none",
        class_weights=False,
        pixels=None,
        **_,
    ):
        self.mode, self.image_size, self.min_crop, self.noise = mode, image_size, min_crop, noise
        self.item_size = round(image_size * 8 / 7) if mode == "train" else image_size
        self.pixels = pixels
        if pixels is not None:
            sound = [True] * len(paths)
        elif in_memory:
            sound = self._decode_all(paths)
        else:
            sound = readable(paths, self.item_size)
        self.paths = [path for path, good in zip(paths, sound, strict=True) if good]
        self.targets = [target for target, good in zip(targets, sound, strict=True) if good]
        self.broken = [path for path, good in zip(paths, sound, strict=True) if not good]
        self.ids = list(targets)  # the broken ones' too: in test mode each gets its row

        self.resampling = resample if mode == "train" else "none"
        if mode == "train" and (class_weights or resample != "none"):
            counts = torch.bincount(torch.tensor(self.targets, dtype=torch.int64), minlength=len(self.classes)).tolist()
            if 0 in counts:
                missing = self.classes[counts.index(0)]
                raise UserError(f"there is no picture of {missing}, which --resample and --class-weights need")
            if class_weights:
                self.weights = [len(self.targets) / count for count in counts]

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        picture = self._decode(self.paths[index]) if self.pixels is None else self.pixels[index]
        return picture, self.targets[index]

    def _decode(self, path):
        picture, size = read_picture(path, self.item_size), (self.item_size, self.item_size)
        if self.mode == "train":
            picture = picture.resize(size, Image.Resampling.BILINEAR)
        else:
            picture = ImageOps.fit(picture, size, Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()

    def _decode_all(self, paths):
        # One tensor, which the loader's workers read where it lies: they are forks of this process, or torch shares it.
        side = self.item_size
        shape = len(paths), 3, side, side
        size = f"{len(paths)} pictures of {side} x {side} for {self.mode}, {math.prod(shape) / 1e6:,.1f} MB"
        print(f"note: kept in memory: {size}")
        try:
            pixels = torch.empty(shape, dtype=torch.uint8)
        except RuntimeError:
            raise UserError(f"no room in memory for {size}; leave --in-memory out, or lower --image-size") from None

        def load(index):
            pixels[index] = self._decode(paths[index])

        sound = succeeds(load, range(len(paths)))
        good = [index for index, whole in enumerate(sound) if whole]
        for row, index in enumerate(good):  # close the gaps that broken pictures left
            if row != index:
                pixels[row] = pixels[index]
        self.pixels = pixels[: len(good)]
        return sound

    def order(self, generator):
        """The samples of one epoch, int64 indices drawn from `generator`; always as many.

        With resampling class c gets a number in proportion to 1 (mean), log(N_c + 1) or sqrt(N_c + 1), all together
        about as many as there are: of a large class so many samples at random, of a small one whole copies and the
        rest at random.
        """
        if self.resampling == "none":
            return super().order(generator)
        targets = torch.tensor(self.targets)
        classes = targets.argsort(stable=True).split(targets.bincount().tolist())  # the samples of each class
        share = {"mean": lambda n: 1.0, "log": lambda n: math.log(n + 1), "sqrt": lambda n: math.sqrt(n + 1)}
        shares = [share[self.resampling](len(members)) for members in classes]
        drawn = []
        for members, part in zip(classes, shares, strict=True):
            copies, rest = divmod(math.ceil(len(targets) * part / sum(shares)), len(members))
            drawn += [members] * copies + [members[torch.randperm(len(members), generator=generator)[:rest]]]
        drawn = torch.cat(drawn)
        return drawn[torch.randperm(len(drawn), generator=generator)]

    def prepare(self, input, target, generator):
        """uint8 [N, 3, S, S] -> normalised float32 [N, 3, image_size, image_size]; in train mode augmented."""
        input = input.float() / 255
        if self.mode == "train":
            grid = random_crop_and_flip(len(input), self.image_size, self.min_crop, generator, input.device)
            input = resample(input, grid)
            if self.noise:
                input += self.noise * torch.randn(input.shape, generator=generator, device=input.device)
        elif input.shape[2:] != (self.image_size, self.image_size):
            input = F.interpolate(input, (self.image_size, self.image_size), mode="bilinear", antialias=True)
        return normalise(input), target

    def meter(self):
        """Confusion matrix of the classes; in val mode with a report on classes, probabilities and mistakes."""
        if self.mode == "train":
            return ConfusionMeter(self.classes)
        from utils.class_meter import ClassMeter

        return ClassMeter(self.classes, picture=self.picture)

    def picture(self, index):
        """A sample to look at: (uint8 [3, S, S], its name)."""
        return self[index][0], "/".join(Path(self.paths[index]).parts[-2:])

    def draw(self, input, target, prediction):
        """One picture, uint8 [3, H, W]: up to 16 of a prepared batch, each with the class predicted, its probability
        and in brackets the true class; in green where they agree, else in red.

        input: [N, 3, S, S] as prepared; target: int64 [N]; prediction: probabilities [N, C].
        """
        pictures = (denormalise(input[:DRAWN].float()).clamp(0, 1) * 255).round().byte().cpu()
        shares, labels = prediction[:DRAWN].max(dim=1)
        names = [name if len(name) <= 10 else f"{name[:9]}…" for name in self.classes]
        captions = []
        for share, label, true in zip(shares.tolist(), labels.tolist(), target[:DRAWN].tolist(), strict=True):
            text = f"{names[label]} {share:.2f} ({names[true]})"
            captions.append((text, "darkgreen" if label == true else "firebrick"))
        return [tiles(pictures, captions)]

    def write_results(self, path, predictions):
        """A CSV with the header id,<class>,<class>,... and a row of probabilities per picture, in their order."""
        write_csv(path, ["id", *self.classes], ([id, *shares] for id, shares in self.results(predictions)))

    def results(self, predictions):
        """Yield (id, probability of every class as text) in the order of the data set.

        predictions: (list of ids, probabilities [N, C]) of each batch. Where a picture could not be read, all classes
        are as likely. None is exactly 0 or 1, which would cost an infinite log loss when it is wrong.
        """
        rows = {id: row for ids, batch in predictions for id, row in zip(ids, batch.tolist(), strict=True)}
        undecided = [1 / len(self.classes)] * len(self.classes)
        for id in self.ids:
            shares = rows.get(id, undecided)
            yield id, [f"{min(max(share, NEVER_CERTAIN), 1 - NEVER_CERTAIN):.6f}" for share in shares]


def random_crop_and_flip(n, size, min_crop, generator, device):
    """A sampling grid [n, size, size, 2] for F.grid_sample: one random resized crop (Szegedy et al. 2014,
    arXiv:1409.4842: area of min_crop to 1, ratio of sides 3/4 to 4/3) and one coin for a horizontal flip per image."""

    def uniform(low, high):
        return low + (high - low) * torch.rand(n, generator=generator, device=device)

    area, log_ratio = uniform(min_crop, 1.0), uniform(np.log(3 / 4), np.log(4 / 3))
    width = (area * log_ratio.exp()).sqrt().clamp(max=1.0)
    height = (area / log_ratio.exp()).sqrt().clamp(max=1.0)
    # In affine_grid's coordinates the picture spans -1..1, a crop's centre within +-(1 - its share of the side).
    x, y = (1 - width) * uniform(-1, 1), (1 - height) * uniform(-1, 1)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(x)
    theta = torch.stack([width * flip, zero, x, zero, height, y], dim=1).view(n, 2, 3)
    return F.affine_grid(theta, [n, 3, size, size], align_corners=False)


def resample(images, grid, mode="bilinear"):
    """float [N, C, H, W] read at the points of a grid [N, h, w, 2] -> [N, C, h, w]."""
    return F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False)


def normalise(images):
    """Images from 0 to 1 -> ImageNet's mean 0 and deviation 1 per channel."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


def denormalise(images):
    """What `normalise` was given."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (MEAN, STD))
    return images * std + mean


def tiles(pictures, captions, columns=4):
    """Pictures in rows of four, each above its caption: uint8 [N, 3, S, S] and N pairs (text, colour) -> uint8
    [3, H, W]. Small ones are enlarged by a whole factor, so that a caption has room."""
    scale = math.ceil(TILE / pictures.shape[-1])
    side, line = scale * pictures.shape[-1], 24
    columns = min(columns, len(pictures))
    sheet = Image.new("RGB", (columns * (side + 8), math.ceil(len(pictures) / columns) * (side + line)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (picture, (text, colour)) in enumerate(zip(pictures, captions, strict=True)):
        x, y = number % columns * (side + 8) + 4, number // columns * (side + line)
        image = Image.fromarray(picture.permute(1, 2, 0).numpy())
        sheet.paste(image.resize((side, side), Image.Resampling.NEAREST), (x, y))
        while pen.textlength(text, font=font) > side:
            text = text[:-2] + "…"
        pen.text((x, y + side + 2), text, fill=colour, font=font)
    return torch.from_numpy(np.array(sheet)).permute(2, 0, 1)


def read_picture(path, size=None, upright=True):
    """A file as an upright RGB PIL image, whatever it is: grey, palette, CMYK, 16 bit, with alpha (laid on
    white) or turned by its EXIF tag. With `size` a JPEG may come smaller, its sides at least `size`, which is faster.
    With upright=False it is as it is stored, whatever the tag says.

    Raises OSError or another of Pillow's errors when it cannot be decoded whole.
    """
    if not os.path.isfile(path):  # a pipe would be waited for, for ever
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with Image.open(path) as picture:
        if size:
            picture.draft(None, (size, size))
        picture.load()
        picture = ImageOps.exif_transpose(picture) if upright else picture
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
    """For each path, whether it can be decoded whole: a list of bool. Every picture is tried."""
    return succeeds(lambda path: read_picture(path, size), paths)


def succeeds(function, arguments):
    """For each argument, whether function(argument) raised nothing."""

    def tried(argument):
        try:
            function(argument)
        except Exception:  # decoders raise anything: OSError, SyntaxError, ValueError, struct.error, ...
            return False
        return True

    return in_threads(tried, arguments)


def in_threads(function, arguments):
    """[function(argument), ...] of functions that read pictures, whose threads Pillow lets run side by side."""
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # Pillow's notes on odd metadata
        return list(pool.map(function, arguments))


def folder_files(roots, why):
    """All files right in the folders `roots`, sorted by name. A missing folder is a UserError that ends with `why`."""
    files = []
    for root in as_list(roots):
        if not Path(root).is_dir():
            raise UserError(f"the folder {root} does not exist: {why}")
        files += sorted(path for path in Path(root).iterdir() if path.is_file())
    return files
