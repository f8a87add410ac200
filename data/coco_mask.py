"""COCO: pictures with boxes, labels and masks of the objects in them, https://cocodataset.org"""

import colorsys
import json
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from utils import UserError
from utils.files import write_atomically

from .base import BaseData
from .coco_format import Picture, clip, draw_mask, find_json, find_pictures, read_coco, to_results
from .coco_meter import CocoMeter, NoMeter
from .pack import open_rows
from .pictures import folder_files, read_picture, resized
from .samples import SUFFIXES, as_list, digest, note, shown, split

SURE = 0.5  # detections with a lower score are not drawn
DRAWN, SIDE = 4, 480  # pictures of a batch that are drawn; pixels that each should have on its longer side


class CocoMask(BaseData):
    """Pictures with objects in COCO's format, their boxes, labels and masks.

    Items are (uint8 [3, S, S], target): the whole picture, its longer side S = image_size, its ratio kept, black below
    or to the right. target: boxes float32 [n, 4] (x1, y1, x2, y2) in pixels of the square, labels int64 [n] (COCO's
    category ids), masks uint8 [n, S, S], area float32 [n] in pixels of the file, iscrowd int64 [n], image_id int, size
    (h, w) of the picture in the square. In test mode items are (uint8 [3, S, S], id int).

    Crowds are not trained on; in evaluation what lies in one is neither right nor wrong, as COCO has it. Pictures
    without objects are left out in train mode, boxes without width or height always; notes count them. Pictures are
    read as they are stored, whatever EXIF says, for COCO's numbers mean stored pixels. `broken` are files that are not
    there, cannot be decoded or have another size than the annotations say.

    Args:
        root: one or several COCO files, or folders with one annotations/instances_*train*.json each; the pictures are
            looked for beside them, see find_pictures. In test mode also folders of pictures; 000000397133.jpg is
            named by its id, pictures with other names are numbered from 1, in the order of their names.
        mode: train, val or test.
        image_size: S, pixels.
        val_data_root: files like `root`, or folders with one annotations/instances_*val*.json each; where there are
            any, they are val and all of `root` is train. Else the two share `root` 70/30, by the pictures' names.
        val_size: val has so many pictures at most.
        repeat: an epoch goes through the pictures so many times, for data sets of a few.
        pack: decode every picture once, into a file in `pack_dir`, and read it from there; see open_rows.
        pack_dir: the folder for that.

    Raises UserError for whatever is wrong with a COCO file, and for categories that differ between the files.
    """

    task = "detection"

    def __init__(
        self,
        root,
        mode,
        image_size=224,
        val_data_root=(),
        val_size=None,
        repeat=1,
        pack=False,
        pack_dir="packs",
        **_,
    ):
        self.mode, self.image_size, self.repeat = mode, image_size, repeat
        if mode == "test":
            pictures = unlabelled(root)
        else:
            pictures, self.categories = labelled(root, mode, val_data_root)
            names = [self.categories.get(id, "unused") for id in range(1, max(self.categories) + 1)]
            self.classes = ["background", *names]
        if mode == "val":
            pictures = pictures[:val_size]
        if mode == "train":
            full = [picture for picture in pictures if any(not one["iscrowd"] for one in picture.annotations)]
            if len(full) < len(pictures):
                note(f"{len(pictures) - len(full)} pictures of {shown(root)} have no objects and are not trained on")
            pictures = full

        paths, ids = [picture.path for picture in pictures], [picture.id for picture in pictures]
        self.rows, sizes = open_rows(paths, in_square, image_size, f"{type(self).__name__}_{mode}", pack, pack_dir, ids)
        self.pictures, self.broken, kept = [], [], []
        for number, (picture, size) in enumerate(zip(pictures, sizes, strict=True)):
            if isinstance(size, str):
                self.broken.append(f"{picture.path}")
                continue
            height, width = size
            if (picture.height, picture.width) in ((height, width), (0, 0)):
                self.pictures.append(picture._replace(height=height, width=width))
                kept.append(number)
            else:
                says = f"its annotations say {picture.width}x{picture.height}"
                self.broken.append(f"{picture.path} ({width}x{height}, {says})")
        self.rows.keep(kept)
        self.by_id = {picture.id: picture for picture in self.pictures}

    def __len__(self):
        return len(self.pictures)

    @property
    def cheap(self):
        """Only in test mode: masks are drawn whenever they are asked for."""
        return super().cheap and self.mode == "test"

    def hold(self, device, cache):
        """As always, but "auto" is "none" where there are masks to draw: workers do that, see BaseData.held."""
        super().hold(device, "none" if cache == "auto" and self.mode != "test" else cache)

    def order(self, generator):
        """The samples of one epoch: every picture `repeat` times, each time in another order."""
        return torch.cat([super(CocoMask, self).order(generator) for _ in range(self.repeat)])

    def __getitem__(self, index):
        picture = self.pictures[index]
        square = self.rows[[index]][0].permute(2, 0, 1).cpu()
        return square, picture.id if self.mode == "test" else self.target(picture)

    def __getitems__(self, indices):
        """A batch: (uint8 [n, 3, S, S], list of targets or ids)."""
        pictures = [self.pictures[index] for index in indices]
        targets = [picture.id if self.mode == "test" else self.target(picture) for picture in pictures]
        return self.rows[indices].permute(0, 3, 1, 2), targets

    def fit(self, picture):
        """(h, w), the pixels that a picture has in the square."""
        return fitted(picture.height, picture.width, self.image_size)

    def target(self, picture):
        """The truth about a picture, see the class."""
        height, width = self.fit(picture)
        truth = [one for one in picture.annotations if self.mode == "val" or not one["iscrowd"]]
        scale = torch.tensor([width / picture.width, height / picture.height] * 2)
        boxes = torch.tensor([clip(one["bbox"], picture) for one in truth]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = torch.zeros(len(truth), self.image_size, self.image_size, dtype=torch.uint8)
        for mask, one in zip(masks, truth, strict=True):
            outline = torch.from_numpy(draw_mask(one, picture))[None, None]
            mask[:height, :width] = F.interpolate(outline, (height, width), mode="nearest-exact")[0, 0]
        return {
            "boxes": boxes * scale,
            "labels": torch.tensor([one["category_id"] for one in truth], dtype=torch.int64),
            "masks": masks,
            "area": torch.tensor([one["area"] for one in truth], dtype=torch.float32),
            "iscrowd": torch.tensor([one["iscrowd"] for one in truth], dtype=torch.int64),
            "image_id": picture.id,
            "size": (height, width),
        }

    @staticmethod
    def collate(batch):
        """A list of items -> (uint8 [N, 3, S, S], list of targets or ids); a tuple is such a batch already."""
        if isinstance(batch, tuple):
            return batch
        input, target = zip(*batch, strict=True)
        return torch.stack(input), list(target)

    def prepare(self, input, target, generator):
        """(uint8 [N, 3, S, S], list of targets or ids) -> (list of float32 [3, h, w] from 0 to 1, the same): the black
        part is cut away, from the masks too. In train mode one coin per picture flips it with its boxes and masks."""
        sizes = [self.fit(self.by_id[one]) if self.mode == "test" else one["size"] for one in target]
        images = [image[:, :h, :w] for image, (h, w) in zip(input.float() / 255, sizes, strict=True)]
        if self.mode == "test":
            return images, target
        target = [{**one, "masks": one["masks"][:, :h, :w]} for one, (h, w) in zip(target, sizes, strict=True)]
        if self.mode == "train":
            coins = torch.rand(len(images), generator=generator, device=input.device) < 0.5
            flipped = [flip(*one) for one in zip(images, target, coins, strict=True)]
            images, target = [image for image, _ in flipped], [one for _, one in flipped]
        return images, target

    def meter(self):
        """COCO's average precisions; in train mode, where there are no detections, nothing."""
        return NoMeter() if self.mode == "train" else CocoMeter(self.pictures, self.categories)

    def draw(self, input, target, prediction):
        """Up to four pictures of a prepared batch, uint8 [3, H, W]: the truth, and beside it the detections with a
        score of 0.5 at least, with boxes, masks and names."""
        drawn = []
        for image, truth, found in list(zip(input, target, prediction, strict=True))[:DRAWN]:
            sure = found["scores"] >= SURE
            found = {name: values[sure] for name, values in found.items()}
            drawn.append(torch.cat([self._overlay(image, truth), self._overlay(image, found)], dim=2))
        return drawn

    def _overlay(self, image, objects):
        """The picture with the objects on it, uint8 [3, H, W], enlarged where it is small."""
        from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks  # here: it takes long to load

        zoom = max(1, round(SIDE / max(image.shape[1:])))
        drawn = (image * 255).round().byte().cpu().repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
        labels = objects["labels"].tolist()
        if not labels:
            return drawn
        names = [self.classes[label] for label in labels]
        if "scores" in objects:
            names = [f"{name} {score:.2f}" for name, score in zip(names, objects["scores"].tolist(), strict=True)]
        colours = [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(label * 0.618 % 1, 0.9, 1)) for label in labels]
        if "masks" in objects:
            masks = objects["masks"].reshape(-1, *image.shape[1:]).cpu() > 0.5
            masks = masks.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
            drawn = draw_segmentation_masks(drawn, masks, alpha=0.45, colors=colours)
        return draw_bounding_boxes(drawn, objects["boxes"].cpu() * zoom, names, colours, width=2, fill_labels=True)

    def write_results(self, path, predictions):
        """COCO's JSON of results, in the pictures' own pixels: a list of {image_id, category_id, bbox [x, y, w, h],
        score, segmentation as compressed run lengths where the model draws masks, file_name}, a line for each
        detection."""

        def write(file):
            mark = "["
            for ids, batch in predictions:
                for id, detections in zip(ids, batch, strict=True):
                    for result in to_results(detections, self.by_id[id], self.fit(self.by_id[id])):
                        result["file_name"] = self.by_id[id].path.name
                        file.write(mark + json.dumps(result, separators=(",", ":")))
                        mark = ",\n"
            file.write("[]\n" if mark == "[" else "]\n")

        write_atomically(path, write)


def flip(image, target, coin):
    """A picture [3, h, w] and its target with left and right exchanged, where coin, a bool tensor [], is true.

    Both are computed and one is chosen, so that nobody waits for the coin.
    """
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    boxes = torch.stack([image.shape[2] - x2, y1, image.shape[2] - x1, y2], dim=1)
    mirrored = {"boxes": boxes, "masks": target["masks"].flip(-1)}
    chosen = {name: torch.where(coin, values, target[name]) for name, values in mirrored.items()}
    return torch.where(coin, image.flip(-1), image), {**target, **chosen}


def labelled(root, mode, val_data_root):
    """(the Pictures of train or val mode in the order of a hash of their names, the categories). Raises UserError."""
    own = mode == "val" and bool(val_data_root)
    files = [find_json(one, "val" if own else "train") for one in as_list(val_data_root if own else root)]
    # A checkpoint may be measured where its training data is not.
    others = [find_json(one, "train") for one in as_list(root) if Path(one).exists()] if own else []
    categories = read_coco(files[0]).categories
    for file in others + files:
        differing = sorted(categories.items() ^ read_coco(file).categories.items())
        if differing:
            id, name = differing[0]
            raise UserError(f"{files[0]} and {file} differ in their categories, the first is {id} {name}: mend one")
    for text in (text for file in files for text in read_coco(file).notes):
        note(text)
    pictures = sorted(unique(find_pictures(file, read_coco(file).pictures) for file in files), key=digest)
    if not val_data_root:
        if len(pictures) < 2:
            raise UserError(f"{shown(root)} has {len(pictures)} pictures: two are needed, or give --val-data-root")
        pictures = split(pictures)[mode]
    return pictures, categories


def unlabelled(root):
    """The Pictures to predict, in the order of their ids; of those in a folder the size is 0. Raises UserError."""
    groups = []
    for one in as_list(root):
        if Path(one).is_file():
            groups.append(find_pictures(Path(one), read_coco(one, labelled=False).pictures))
            continue
        files = folder_files(one, "give --test-data-root, a COCO file or a folder of pictures")
        paths = [path for path in files if path.suffix.lower() in SUFFIXES]
        if not paths:
            raise UserError(
                f"there are no pictures in {one}: give --test-data-root, a COCO file or a folder of pictures"
            )
        ids = range(1, len(paths) + 1)
        if all(re.fullmatch(r"\d{1,18}", path.stem) for path in paths):
            ids = [int(path.stem) for path in paths]
        else:
            note(f"the pictures in {one} are not all named by an id, 000000397133.jpg: their ids are 1, 2, ... by name")
        groups.append([Picture(id, path, 0, 0, []) for id, path in zip(ids, paths, strict=True)])
    return sorted(unique(groups))


def unique(groups):
    """Lists of Pictures -> one list. Raises UserError when two have the same id."""
    found = {}
    for picture in (picture for group in groups for picture in group):
        if found.setdefault(picture.id, picture) is not picture:
            raise UserError(f"the image id {picture.id} is there twice: {found[picture.id].path} and {picture.path}")
    return list(found.values())


def in_square(path, side):
    """A picture as it is stored in the upper left corner of a black square, for open_rows: (uint8 [side, side, 3],
    [height, width] of the file)."""
    picture = read_picture(path, side, upright=False)
    with Image.open(path) as file:
        width, height = file.size
    h, w = fitted(height, width, side)
    square = np.zeros((side, side, 3), dtype=np.uint8)
    square[:h, :w] = resized(np.asarray(picture), h, w)
    return square, [height, width]


def fitted(height, width, side):
    """(h, w) of a picture whose longer side becomes `side`."""
    scale = side / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
