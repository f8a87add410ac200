"""Data sets of pictures with a label: reading any picture, leaving out broken ones, augmentation on the device."""

import errno
import math
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch.nn import functional as F

from utils import UserError
from utils.files import write_csv
from utils.meters import ConfusionMeter

from .augment import Augment, denormalise, normalise
from .base import BaseData
from .pack import Held, open_rows
from .samples import as_list

NEVER_CERTAIN = 1e-6  # no probability is closer to 0 or 1
DRAWN, TILE = 16, 160  # pictures of a batch that are drawn; pixels that each is wide at least


class PictureData(BaseData):
    """Pictures with a label. A subclass gives files and labels to __init__, after it has set `classes`.

    Items are (uint8 [3, S, S], label or id): in train mode the whole picture squeezed to S = 8/7 image_size (256 for
    224), in val and test mode the centre square, resized to S = image_size.

    Args:
        paths: list of files.
        targets: list of int, the labels, or in test mode the ids, numbers or text.
        mode: train, val or test.
        image_size: height and width of what `prepare` returns, pixels.
        min_crop, flip, rotate, colour, noise, erase, mixup, cutmix: how train mode changes pictures, see Augment.
        resample: balance the classes in every epoch of train mode, see `order`: none, mean, log or sqrt.
        class_weights: let `weights` be N / N_c in train mode.
        pixels: the pictures themselves where they are decoded already, uint8 [N, H, W, 3] of any size; then `paths`
            only name them.
        pack: decode every picture once, into a file in `pack_dir`, and read it from there; see open_rows.
        pack_dir: the folder for that.

    Raises UserError when there is no picture of a class to resample or weigh.
    """

    def __init__(
        self,
        paths,
        targets,
        mode,
        image_size=224,
        min_crop=0.08,
        flip=0.5,
        rotate=0.0,
        colour=0.0,
        noise=0.0,
        erase=0.0,
        mixup=0.0,
        cutmix=0.0,
        resample="none",
        class_weights=False,
        pixels=None,
        pack=False,
        pack_dir="packs",
        **_,
    ):
        self.mode, self.image_size = mode, image_size
        self.augment = Augment(image_size, min_crop, flip, rotate, colour, noise, erase, mixup, cutmix)
        self.item_size = round(image_size * 8 / 7) if mode == "train" else image_size
        if pixels is None:
            read, name = squeezed if mode == "train" else centred, f"{type(self).__name__}_{mode}"
            self.rows, wrong = open_rows(paths, read, self.item_size, name, pack, pack_dir, targets)
            sound = [number for number, fault in enumerate(wrong) if fault is None]
            self.rows.keep(sound)
            self.broken = [path for path, fault in zip(paths, wrong, strict=True) if fault is not None]
        else:
            self.rows, sound, self.broken = Held(pixels), range(len(paths)), []
        self.paths, self.targets = [paths[number] for number in sound], [targets[number] for number in sound]
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
        target = self.targets[index]
        return self.rows[[index]][0].permute(2, 0, 1).cpu(), target

    def __getitems__(self, indices):
        """A batch: (uint8 [n, 3, S, S], labels or numbers as int64 [n], or a list of text)."""
        targets = [self.targets[index] for index in indices]
        targets = targets if isinstance(targets[0], str) else torch.tensor(targets)
        return self.rows[indices].permute(0, 3, 1, 2), targets  # in memory channels last, which the device likes best

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
        """uint8 [N, 3, S, S] -> normalised float32 [N, 3, image_size, image_size]; in train mode augmented, and with
        mixup or cutmix the labels int64 [N] become shares float32 [N, C]."""
        if self.mode == "train":
            input, _ = self.augment(input, generator)
            return self.augment.mix(input, target, len(self.classes), generator)
        size = self.image_size, self.image_size
        if input.shape[2:] != size:  # torch resizes bytes on a CPU only
            input = F.interpolate(input.float(), size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
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
        if upright:
            ImageOps.exif_transpose(picture, in_place=True)
        if picture.mode.startswith(("I", "F")):  # Pillow would clip 16 bits at 255
            values = np.asarray(picture, dtype=np.float32)
            usual = {"I;16": (65535,), "F": (1, 255, 65535)}.get(picture.mode[:4], (255, 65535))
            white = next((limit for limit in usual if values.max() <= limit), values.max())
            picture = Image.fromarray((values / white * 255).clip(0, 255).astype(np.uint8))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return picture if picture.mode == "RGB" else picture.convert("RGB")


def squeezed(path, size):
    """A whole picture as a square, for open_rows: (uint8 [size, size, 3], None)."""
    return resized(np.asarray(read_picture(path, size)), size, size), None


def centred(path, size):
    """The centre square of a picture, for open_rows: (uint8 [size, size, 3], None)."""
    pixels = np.asarray(read_picture(path, size))
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return resized(pixels[top : top + side, left : left + side], size, size), None


def resized(pixels, height, width):
    """uint8 [h, w, 3] -> uint8 [height, width, 3], bilinearly and without aliasing: within 1 of what Pillow's resize
    makes of it, in a fifth of the time."""
    picture = torch.tensor(pixels).permute(2, 0, 1)[None]
    picture = F.interpolate(picture, (height, width), mode="bilinear", antialias=True)
    return picture[0].permute(1, 2, 0).contiguous().numpy()


def folder_files(roots, why):
    """All files right in the folders `roots`, sorted by name. A missing folder is a UserError that ends with `why`."""
    files = []
    for root in as_list(roots):
        if not Path(root).is_dir():
            raise UserError(f"the folder {root} does not exist: {why}")
        files += sorted(path for path in Path(root).iterdir() if path.is_file())
    return files
