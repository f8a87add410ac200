"""COCO: pictures with boxes, labels and masks of the objects in them, https://cocodataset.org"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from data.pictures.picture_set import PictureSet, open_images
from data.pictures.read import read_picture, resized
from data.pictures.split import Roots, as_list, digest, part_of, picture_files, shown
from utils import UserError
from utils.files import write_atomically
from utils.notices import counted, note_once
from utils.options.kinds import height_width

from .draw import compared
from .format import Picture, clip, draw_mask, find_json, find_pictures, read_coco, to_results
from .meter import CocoMeter, NoMeter

DRAWN = 4  # pictures of a batch that are drawn


class CocoMask(PictureSet):
    """Pictures with objects in COCO's format, their boxes, labels and masks.

    Items are (uint8 [3, H, W], target): the whole picture as large as fits into image_size, its ratio kept, black
    below or to the right. target: boxes float32 [n, 4] (x1, y1, x2, y2) in pixels of the item, labels int64 [n]
    (COCO's category ids), masks uint8 [n, H, W], area float32 [n] in pixels of the file, iscrowd int64 [n], image_id
    int, size (h, w) of the picture in the item. In test mode items are (uint8 [3, H, W], id int).

    Crowds are not trained on; in evaluation, detections in a crowd are neither right nor wrong, as in COCO. Pictures
    without objects are left out in train mode, boxes without width or height always; notes count them. The EXIF
    orientation is ignored, because COCO's coordinates are those of the stored pixels. `broken` are files that are
    missing, cannot be decoded or differ in size from their annotations.

    Args:
        root: one or several COCO files, or folders with one annotations/instances_*train*.json each; find_pictures
            locates their pictures. In test mode also folders of pictures; the id of 000000397133.jpg is its number,
            pictures with other names are numbered from 1, in the order of their names.
        mode: train, val or test.
        image_size: H and W, pixels; or "320x192", W x H.
        val_data_root: files like `root`, or folders with one annotations/instances_*val*.json each; if there are any,
            they are val and all of `root` is train. Else the two share `root` 70/30, by the pictures' names.
        val_size: maximum number of pictures in val mode.
        repeat: number of passes over the pictures in an epoch, for small data sets.
        pack: decode every picture once, into a file in `pack_dir`, and read it from there; see open_images.
        pack_dir: the folder for that file.

    Raises UserError for an invalid COCO file, and for categories that differ between the files.
    """

    task = "detection"

    def __init__(
        self,
        root: Roots,
        mode: str,
        image_size: int | str = 224,
        val_data_root: Roots = (),
        val_size: int | None = None,
        repeat: int = 1,
        pack: bool = False,
        pack_dir: str = "packs",
        **_: Any,
    ):
        self.mode, self.size, self.repeat = mode, height_width(image_size), repeat
        if mode == "test":
            pictures = unlabelled(root)
        else:
            pictures, self.categories = labelled(root, mode, val_data_root, val_size)
            names = [self.categories.get(id, "unused") for id in range(1, max(self.categories) + 1)]
            self.classes = ["background", *names]
        if mode == "train":
            full = [picture for picture in pictures if any(not one["iscrowd"] for one in picture.annotations)]
            if len(full) < len(pictures):
                empty = counted(len(pictures) - len(full), "picture")
                note_once(f"not training on {empty} of {shown(root)} without objects")
            pictures = full

        paths = [picture.path for picture in pictures]
        self.images, sizes = open_images(paths, in_square, self.size, f"{type(self).__name__}_{mode}", pack, pack_dir)
        self.pictures: list[Picture] = []
        self.broken: list[str] = []
        kept = []
        for number, (picture, size) in enumerate(zip(pictures, sizes, strict=True)):
            if isinstance(size, str):
                self.broken.append(f"{picture.path} ({size})")
            elif [picture.height, picture.width] in (size, [0, 0]):
                self.pictures.append(picture._replace(height=size[0], width=size[1]))
                kept.append(number)
            else:
                self.broken.append(
                    f"{picture.path} ({size[1]}x{size[0]}, its annotations say {picture.width}x{picture.height})"
                )
        self.images.select(kept)
        self.by_id = {picture.id: picture for picture in self.pictures}

    @property
    def no_workers_needed(self) -> bool:  # type: ignore[override]
        """Only in test mode: else every item draws its masks."""
        return super().no_workers_needed and self.mode == "test"

    def cache_on(self, device: torch.device, cache: str) -> None:
        """See BaseData, but "auto" means "none" except in test mode: workers draw the masks, see cached_on_device."""
        super().cache_on(device, "none" if cache == "auto" and self.mode != "test" else cache)

    def order(self, generator: torch.Generator) -> torch.Tensor:
        """The samples of one epoch: every picture `repeat` times, in a new order each time."""
        return torch.cat([super(CocoMask, self).order(generator) for _ in range(self.repeat)])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        pictures, targets = self.__getitems__([index])
        return pictures[0].cpu(), targets[0]

    def __getitems__(self, indices: list[int]) -> tuple[torch.Tensor, list[Any]]:
        """A batch: (uint8 [n, 3, H, W], list of targets or ids)."""
        pictures = [self.pictures[index] for index in indices]
        targets = [picture.id if self.mode == "test" else self.target(picture) for picture in pictures]
        return self.images[indices].permute(0, 3, 1, 2), targets

    def fit(self, picture: Picture) -> tuple[int, int]:
        """(h, w), the size of a picture in the square or rectangle."""
        return fitted(picture.height, picture.width, self.size)

    def target(self, picture: Picture) -> dict[str, Any]:
        """The truth about a picture, see the class."""
        height, width = self.fit(picture)
        truth = [one for one in picture.annotations if self.mode == "val" or not one["iscrowd"]]
        scale = torch.tensor([width / picture.width, height / picture.height] * 2)
        boxes = torch.tensor([clip(one["bbox"], picture) for one in truth]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        masks = torch.zeros(len(truth), *self.size, dtype=torch.uint8)
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
    def collate(batch: Any) -> tuple[torch.Tensor, list[Any]]:
        """A list of items -> (uint8 [N, 3, H, W], list of targets or ids). A tuple is a batch already."""
        if isinstance(batch, tuple):
            return batch
        input, target = zip(*batch, strict=True)
        return torch.stack(input), list(target)

    def prepare(
        self, input: torch.Tensor, target: list[Any], generator: torch.Generator | None
    ) -> tuple[list[torch.Tensor], list[Any]]:
        """(uint8 [N, 3, H, W], list of targets or ids) -> (list of float32 [3, h, w] from 0 to 1, the same). The black
        part is cut off, from the masks too. In train mode a coin per picture flips it with its boxes and masks."""
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

    def meter(self) -> CocoMeter | NoMeter:
        """COCO's average precisions; in train mode, without detections, nothing."""
        return NoMeter() if self.mode == "train" else CocoMeter(self.pictures, self.categories)

    def draw(self, input: list[torch.Tensor], target: list[Any], prediction: list[Any] | None) -> list[torch.Tensor]:
        """Up to four pictures of a prepared batch, truth and detections side by side, see compared."""
        found = [None] * len(input) if prediction is None else prediction
        return [compared(*one, self.classes) for one in list(zip(input, target, found, strict=True))[:DRAWN]]

    def write_results(self, path: str, predictions: Iterable[tuple[list[Any], Any]]) -> None:
        """Write COCO's JSON of results, in the pictures' own pixels: a list of {image_id, category_id, file_name,
        bbox [x, y, w, h], score, segmentation as compressed run lengths if the model predicts masks}."""

        def write(file: IO[str]) -> None:
            mark = "["
            for ids, batch in predictions:
                for id, detections in zip(ids, batch, strict=True):
                    for result in to_results(detections, self.by_id[id], self.fit(self.by_id[id])):
                        result["file_name"] = self.by_id[id].path.name
                        file.write(mark + json.dumps(result, separators=(",", ":")))
                        mark = ",\n"
            file.write("[]\n" if mark == "[" else "]\n")

        write_atomically(path, write)


def flip(image: torch.Tensor, target: dict[str, Any], coin: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """Flip a picture [3, h, w] and its target horizontally if coin, a bool tensor [], is true.

    Both versions are computed and one is chosen, so that the host does not wait for the coin.
    """
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    boxes = torch.stack([image.shape[2] - x2, y1, image.shape[2] - x1, y2], dim=1)
    mirrored = {"boxes": boxes, "masks": target["masks"].flip(-1)}
    chosen = {name: torch.where(coin, values, target[name]) for name, values in mirrored.items()}
    return torch.where(coin, image.flip(-1), image), {**target, **chosen}


def labelled(
    root: Roots, mode: str, val_data_root: Roots, val_size: int | None
) -> tuple[list[Picture], dict[int, str]]:
    """(the Pictures of train or val mode, ordered by a hash of their names, the categories). Raises UserError."""
    own = mode == "val" and bool(val_data_root)
    files = [find_json(one, "val" if own else "train") for one in as_list(val_data_root if own else root)]
    # A checkpoint may be validated on a machine without its training data.
    others = [find_json(one, "train") for one in as_list(root) if Path(one).exists()] if own else []
    categories = read_coco(files[0]).categories
    for file in others + files:
        differing = sorted(categories.items() ^ read_coco(file).categories.items())
        if differing:
            id, name = differing[0]
            only = f"{id} {name} is in one of them only"
            raise UserError(f"{files[0]} and {file} differ in their categories: {only}")
    for text in (text for file in files for text in read_coco(file).notes):
        note_once(text)
    pictures = sorted(unique(find_pictures(file, read_coco(file).pictures) for file in files), key=digest)
    few = f"{shown(root)} has {counted(len(pictures), 'picture')}"
    return part_of(pictures, mode, val_data_root, val_size, few), categories


def unlabelled(root: Roots) -> list[Picture]:
    """The Pictures to predict, in the order of their ids; those of a folder have size 0. Raises UserError."""
    groups = []
    for one in as_list(root):
        if Path(one).is_file():
            groups.append(find_pictures(Path(one), read_coco(one, labelled=False).pictures))
            continue
        paths = picture_files(one, "give a COCO file or a folder of pictures")
        numbered = all(re.fullmatch(r"\d{1,18}", path.stem) for path in paths)
        if not numbered:
            note_once(
                f"the pictures in {one} are not all named by an id, 000000397133.jpg: their ids are 1, 2, ... by name"
            )
        ids = [int(path.stem) if numbered else number for number, path in enumerate(paths, start=1)]
        groups.append([Picture(id, path, 0, 0, []) for id, path in zip(ids, paths, strict=True)])
    return sorted(unique(groups))


def unique(groups: Iterable[list[Picture]]) -> list[Picture]:
    """Lists of Pictures -> one list. Raises UserError when two have the same id."""
    found: dict[int, Picture] = {}
    for picture in (picture for group in groups for picture in group):
        if found.setdefault(picture.id, picture) is not picture:
            raise UserError(f"{found[picture.id].path} and {picture.path} have the same image id, {picture.id}")
    return list(found.values())


def in_square(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, list[int]]:
    """A picture as stored, in the upper left corner of a black square or rectangle, for open_images: (uint8 [*size, 3],
    [height, width] of the file)."""
    picture = read_picture(path, max(size), upright=False)
    with Image.open(path) as file:
        width, height = file.size
    h, w = fitted(height, width, size)
    square = np.zeros((*size, 3), dtype=np.uint8)
    square[:h, :w] = resized(np.asarray(picture), h, w)
    return square, [height, width]


def fitted(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of a picture that becomes as large as fits into size, (height, width)."""
    scale = min(size[0] / height, size[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))
