"""Pictures and masks of your own, for segmentation."""

from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image
from torch.nn import functional as F

from utils import UserError
from utils.files import write_atomically, write_csv
from utils.iou_meter import UNLABELLED, IoUMeter

from .augment import Augment, denormalise, normalise
from .base import BaseData
from .pack import open_rows
from .pictures import folder_files, squeezed
from .samples import SUFFIXES, Sample, as_list, class_names, digest, note, shown, split, unique_ids

WHERE = "give folders with the pictures in images/ and, for training, PNG files of the same names in masks/"
# The colours of PASCAL VOC: bits of the class, the lowest first, go to red, green and blue in turn, highest first.
PALETTE = np.array(
    [
        [sum((i >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3)) for channel in range(3)]
        for i in range(256)
    ],
    dtype=np.uint8,
)


class MaskFolder(BaseData):
    """Pictures in <root>/images and masks of the same stem in <root>/masks, split 70/30 into train and val by name.

    A mask is a grey or palette PNG of its picture's size; a pixel's value is its class, 255 counts for nothing. The
    lines of class_name.txt in the first root name the classes; without it they are "class 0" to the largest value in
    the masks of `root`. In test mode pictures are those of <root>/images or, without such a folder, of <root>, and
    their stems are the ids.

    Items are (uint8 [3, S, S], mask uint8 [S, S] or id): always the whole picture squeezed to a square, so that every
    labelled pixel counts in the IoU; in train mode S = 8/7 image_size, else image_size.

    Pictures without a mask, and masks without a picture, are passed over with a note. `broken` are files that cannot
    be decoded, and masks of another size than their picture, with colours, with classes that do not exist or with
    nothing but 255.

    Args:
        root: one folder, or a list of them.
        mode: train, val or test.
        image_size: height and width of what `prepare` returns, pixels.
        min_crop, flip, rotate, colour, noise: how train mode changes pictures and masks, see Augment.
        val_data_root: folders like `root`; where there are any, they are val and all of `root` is train.
        val_size: val has so many pictures at most.
        class_weights: let `weights` be N / N_c in train mode, of the pixels.
        pack: decode everything once, into a file in `pack_dir`, and read it from there; see open_rows.
        pack_dir: the folder for that.

    Raises UserError for missing folders, too few pictures with masks, and a number of classes that cannot be.
    """

    task = "segmentation"

    def __init__(
        self,
        root,
        mode,
        image_size=224,
        min_crop=0.08,
        flip=0.5,
        rotate=0.0,
        colour=0.0,
        noise=0.0,
        val_data_root=(),
        val_size=None,
        class_weights=False,
        pack=False,
        pack_dir="packs",
        **_,
    ):
        self.mode, self.image_size = mode, image_size
        self.augment = Augment(image_size, min_crop, flip, rotate, colour, noise)
        self.item_size = round(image_size * 8 / 7) if mode == "train" else image_size
        side, name = self.item_size, f"{type(self).__name__}_{mode}"
        if mode == "test":
            own = unlabelled(root)
            paths, ids = [sample.path for sample in own], [sample.target for sample in own]
            self.rows, wrong = open_rows(paths, squeezed, side, name, pack, pack_dir, ids)
            self.broken = [path for path, fault in zip(paths, wrong, strict=True) if fault is not None]
            self._keep(own, [fault is None for fault in wrong])
            return

        everything = own = labelled(root)
        if mode == "val" and val_data_root:
            own = labelled(val_data_root)
        elif not val_data_root:
            if len(own) < 2:
                raise UserError(f"{shown(root)} has one picture with a mask: two are needed, or give --val-data-root")
            own = split(own)[mode]
        own = own[: val_size if mode == "val" else None]

        names = class_names(as_list(root)[0])
        mine = set(own)
        others = [] if names else [sample for sample in everything if sample not in mine]
        files, more = ([(sample.path, sample.target) for sample in group] for group in (own, others))
        self.rows, found = open_rows(files, with_mask, side, name, pack, pack_dir, channels=4, also=more)
        found = dict(zip([*own, *others], found, strict=True))
        problems = {sample: fact for sample, fact in found.items() if isinstance(fact, str)}
        pixels = {sample: dict(fact) for sample, fact in found.items() if sample not in problems}
        largest = max((max(pixels[sample]) for sample in everything if sample in pixels), default=-1)
        self.classes = names or [f"class {index}" for index in range(largest + 1)]
        if pixels and not 2 <= len(self.classes) <= UNLABELLED:
            raise UserError(
                f"{shown(root)} has {len(self.classes)} classes: 2 to 255 are needed, pixels being 0, 1, ... "
                "(255 counts for nothing: in masks of 0 and 255 write the objects as 1)"
            )
        for sample, counts in pixels.items():
            if max(counts) >= len(self.classes):
                known = f"the classes are 0 to {len(self.classes) - 1}, and 255 counts for nothing"
                problems[sample] = f"{sample.target} (a pixel is {max(counts)}; {known})"
        self.broken = [problems[sample] for sample in own if sample in problems]
        self._keep(own, [sample not in problems for sample in own])
        if class_weights and mode == "train":
            self.weights = self._weights([pixels[sample] for sample in self.samples])

    def _keep(self, samples, sound):
        self.rows.keep([number for number, good in enumerate(sound) if good])
        self.samples = [sample for sample, good in zip(samples, sound, strict=True) if good]

    def _weights(self, pixels):
        counts = [sum(counts.get(index, 0) for counts in pixels) for index in range(len(self.classes))]
        if 0 in counts:
            missing = self.classes[counts.index(0)]
            raise UserError(f"there is no training pixel of {missing}, which --class-weights needs")
        return [sum(counts) / count for count in counts]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        id, row = self.samples[index].target, self.rows[[index]][0].cpu()
        return row[..., :3].permute(2, 0, 1), id if self.mode == "test" else row[..., 3]

    def __getitems__(self, indices):
        """A batch: (uint8 [n, 3, S, S], masks uint8 [n, S, S] or a list of ids)."""
        rows = self.rows[indices]
        pictures = rows[..., :3].contiguous().permute(0, 3, 1, 2)  # in memory channels last
        if self.mode == "test":
            return pictures, [self.samples[index].target for index in indices]
        return pictures, rows[..., 3].contiguous()

    def prepare(self, input, target, generator):
        """uint8 [N, 3, S, S] -> normalised float32 [N, 3, image_size, image_size], masks uint8 [N, S, S] -> int64
        [N, image_size, image_size]; in train mode both are cropped and flipped alike, ids stay as they are."""
        if self.mode == "train":
            input, target = self.augment(input, generator, target)
        else:
            input = normalise(input)
        return input, target if self.mode == "test" else target.long()

    def meter(self):
        """IoU of the classes."""
        return IoUMeter(self.classes)

    def draw(self, input, target, prediction):
        """Strips picture | prediction | truth of the first four of a batch, uint8 [3, H, 3W + 4]."""
        pictures = (denormalise(input[:4]) * 255).round().clamp(0, 255).byte().cpu()
        gap = torch.full((3, input.shape[2], 2), 255, dtype=torch.uint8)
        labels = prediction[:4].argmax(dim=1)
        return [
            torch.cat([picture, gap, coloured(label), gap, coloured(truth)], dim=2)
            for picture, label, truth in zip(pictures, labels, target[:4], strict=True)
        ]

    def write_results(self, path, predictions):
        """A palette PNG of each picture's own size, its pixels the most probable classes, in the folder `path` without
        its suffix; and at `path` a CSV with the header id,mask, where the masks lie as seen from the CSV, or nothing
        for a picture that could not be read. Raises UserError for a path without a suffix."""
        path, pictures = Path(path), {id: picture for picture, id, _ in self.samples}
        folder = path.with_suffix("")
        if folder == path:
            raise UserError(f"--result-file={path} has no suffix, but the masks need a folder of that name: add .csv")
        folder.mkdir(exist_ok=True)
        rows = {broken.stem: "" for broken in self.broken}
        for ids, batch in predictions:
            for id, probability in zip(ids, batch, strict=True):
                mask = Image.fromarray(most_probable(probability, *upright_size(pictures[id])))
                mask.putpalette(PALETTE.tobytes())
                write_atomically(folder / f"{id}.png", partial(mask.save, format="PNG"), binary=True)
                rows[id] = f"{folder.name}/{id}.png"
        write_csv(path, ["id", "mask"], sorted(rows.items()))


def unlabelled(roots):
    """Samples (picture, id, name) to predict. Raises UserError where there are none, or two of the same id."""
    folders = [Path(root, "images") if Path(root, "images").is_dir() else Path(root) for root in as_list(roots)]
    paths = [path for path in folder_files(folders, "give --test-data-root") if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise UserError(f"there are no pictures in {shown(folders)}: give --test-data-root")
    return unique_ids([Sample(path, path.stem, path.name) for path in paths])


def labelled(roots):
    """Samples (picture, its mask, name), in the order of a hash of their names. Raises UserError where there are none.
    A note tells what has no partner."""
    samples, alone = [], []
    for root in as_list(roots):
        images, masks = by_stem(Path(root, "images"), SUFFIXES), by_stem(Path(root, "masks"), {".png"})
        samples += [Sample(path, masks[stem], path.name) for stem, path in images.items() if stem in masks]
        alone += [
            str(path) for stem, path in [*images.items(), *masks.items()] if not (stem in images and stem in masks)
        ]
    if not samples:
        raise UserError(f"no picture in {shown(roots)} has a mask ({len(alone)} files without a partner): {WHERE}")
    if alone:
        some = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
        note(f"{len(alone)} pictures without a mask or masks without a picture are passed over: {some}")
    return sorted(samples, key=digest)


def by_stem(folder, suffixes):
    """{stem: path} of the files with these suffixes. Raises UserError where two have the same stem."""
    found = {}
    for path in folder_files(folder, WHERE):
        if path.suffix.lower() in suffixes and found.setdefault(path.stem, path) != path:
            raise UserError(f"{found[path.stem]} and {path} differ in their suffix only: which belongs to the mask?")
    return found


def with_mask(files, size):
    """A picture and its mask, both squeezed to a square, for open_rows: (uint8 [size, size, 4], the mask being the
    last channel, [[class, pixels of it in the file], ...]). Raises UserError with what is wrong with either."""
    path, target = files
    try:
        picture, _ = squeezed(path, size)
        width, height = upright_size(path)
    except Exception as error:  # decoders raise anything, see attempt
        raise UserError(str(path)) from error
    try:
        mask = read_mask(target)
    except Exception as error:
        raise UserError(str(target)) from error
    if mask.ndim != 2:
        raise UserError(f"{target} (it has colours or transparency: a grey or palette PNG is needed)")
    if mask.shape != (height, width):
        raise UserError(f"{target} ({mask.shape[1]}x{mask.shape[0]}, but its picture {width}x{height})")
    counts = np.bincount(mask.ravel())
    pixels = [[int(label), int(counts[label])] for label in counts.nonzero()[0] if label != UNLABELLED]
    if not pixels:
        raise UserError(f"{target} (all 255, which counts for nothing)")
    largest, _ = pixels[-1]
    if largest > UNLABELLED:
        raise UserError(f"{target} (a pixel is {largest}; 254 is the largest class)")
    mask = Image.fromarray(mask.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)
    return np.dstack([picture, mask]), pixels


def read_mask(path):
    """A mask's pixels as numpy has them: [H, W] where it is grey, black and white or has a palette."""
    with Image.open(path) as mask:
        return np.asarray(mask)


def upright_size(path):
    """(width, height) of a picture as read_picture returns it; only the file's header is read."""
    with Image.open(path) as picture:
        width, height = picture.size
        turned = picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def most_probable(probability, width, height):
    """Probabilities [C, h, w] -> classes uint8 [height, width]. They are enlarged one class at a time: all those of a
    large photograph would take gigabytes."""
    best = torch.full((height, width), -1.0, device=probability.device)
    label = torch.zeros((height, width), dtype=torch.uint8, device=probability.device)
    for index, share in enumerate(probability):
        share = F.interpolate(share[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]
        label[share > best] = index
        best = torch.maximum(best, share)
    return label.cpu().numpy()


def coloured(labels):
    """Classes [H, W] -> their colours, uint8 [3, H, W]."""
    return torch.from_numpy(PALETTE[labels.cpu().numpy()]).permute(2, 0, 1)
