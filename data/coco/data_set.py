"""COCO: pictures with boxes, labels and masks of the objects in them, https://cocodataset.org"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch.nn import functional as F

from data.pictures.picture_set import PictureSet, open_images
from data.pictures.read import fitted
from data.pictures.split import Roots, as_list, digest, part_of, shown
from utils import UserError
from utils.files import write_atomically
from utils.notices import counted, note_once
from utils.options.kinds import height_width

from .categories import category_ids, label_categories, relabel
from .draw import compared
from .find import find_json, find_pictures, numbered, unique
from .format import Picture, clip, draw_mask, read_coco, to_results
from .meter import CocoMeter, NoMeter
from .preparation import BoxPreparation
from .stored import as_stored, is_doubtful, place, turned
from .values import in_order

DRAWN = 4  # pictures of a batch that are drawn


class CocoMask(PictureSet):
    """Pictures with objects in COCO's format, their boxes, labels and masks.

    Items are (uint8 [3, H, W], target): the whole picture as large as fits into image_size, its ratio kept, black
    below or to the right. target: boxes float32 [n, 4] (x1, y1, x2, y2) in pixels of the item, labels int64 [n]
    (COCO's category ids, see label_categories), masks uint8 [n, H, W], area float32 [n] in pixels of the file, iscrowd
    int64 [n], image_id int or text, size (h, w) of the picture in the item. In test mode items are (uint8
    [3, H, W], id).

    Crowds are not trained on; in evaluation, detections in a crowd are neither right nor wrong, as in COCO. Pictures
    without objects are left out in train mode, boxes without width or height always; notes count them. COCO's
    coordinates are those of the stored pixels; a picture is turned by its EXIF orientation where its annotations have
    the size that it has then. A note counts those where the size does not tell, see `exif`. `broken` are files that
    are missing, cannot be decoded or differ in size from their annotations.

    Args:
        root: one or several COCO files, or folders with one each, see find_json; find_pictures locates their pictures.
            In test mode also folders of pictures; the id of 000000397133.jpg is its number,
            pictures with other names are numbered from 1, in the order of their names.
        mode: train, val or test.
        image_size: H and W, pixels; or "320x192", W x H.
        val_data_root: files or folders like `root`; if there are any, they are val and all of `root` is train. Else the
            two share `root` 70/30, by the pictures' names.
        val_size: maximum number of pictures in val mode.
        exif: how pictures lie whose annotations these are, stored or upright; auto: as their size tells.
        crowds: ignore, as COCO means it, or objects: crowds, and VOC's difficult objects, count as any other.
        repeat: number of passes over the pictures in an epoch, for small data sets.
        pack: decode every picture once, into a file in `pack_dir`, and read it from there; see open_images.
        pack_dir: the folder for that file.

    Raises UserError for an invalid COCO file, for categories that differ between the files, and in train mode where
    there is no object but crowds.
    """

    task = "detection"
    preparation = BoxPreparation
    upright = False  # how pictures lie whose annotations have no size
    kind = "instances"  # how the names of COCO's own files begin
    flips = 0.5  # share of the training pictures that is flipped
    skeleton: Sequence[tuple[int, int]] = ()  # the points that a drawn line connects

    def __init__(
        self,
        root: Roots,
        mode: str,
        image_size: int | str = 224,
        val_data_root: Roots = (),
        val_size: int | None = None,
        exif: str = "auto",
        crowds: str = "ignore",
        repeat: int = 1,
        pack: bool = False,
        pack_dir: str = "packs",
        **_: Any,
    ):
        self.mode, self.size, self.repeat, self.crowds = mode, height_width(image_size), repeat, crowds
        if mode == "test":
            pictures, self.written_ids = self.unlabelled(root)
        else:
            pictures, self.categories = self.labelled(root, mode, val_data_root, val_size)
            names = [self.categories.get(id, "unused") for id in range(1, max(self.categories) + 1)]
            self.classes = ["background", *names]
        if mode == "train":
            full = [picture for picture in pictures if any(not one["iscrowd"] for one in picture.annotations)]
            if len(full) < len(pictures):
                empty = counted(len(pictures) - len(full), "picture")
                note_once(f"not training on {empty} of {shown(root)} without objects")
            pictures = full

        paths = [picture.path for picture in pictures]
        self.images, facts = open_images(paths, as_stored, self.size, f"{type(self).__name__}_{mode}", pack, pack_dir)
        placed = [place(*one, self.upright, exif) for one in zip(pictures, facts, strict=True)]
        self.broken = [one for one in placed if isinstance(one, str)]
        kept = [(number, one) for number, one in enumerate(placed) if not isinstance(one, str)]
        self.images.select([number for number, _ in kept])
        self.pictures = [self.scaled(picture) for _, picture in kept]
        self.by_id = {picture.id: picture for picture in self.pictures}
        doubtful = [one.turn for number, one in kept if is_doubtful(pictures[number], facts[number])]
        if doubtful and exif == "auto":
            how, other = ("stored", "upright") if doubtful[0] == 1 else ("upright", "stored")
            note_once(
                f"{counted(len(doubtful), 'picture')} of {shown(root)} with an EXIF orientation, and no annotated size "
                f"that tells how the boxes were drawn: read as {how}; --exif={other} if they are those of the {other} "
                f"pictures, --exif={how} if this is right"
            )

    def labelled(
        self, root: Roots, mode: str, val_data_root: Roots, val_size: int | None
    ) -> tuple[list[Picture], dict[int, str]]:
        """(Pictures of train or val mode, ordered by a hash of their names, {label: category}). Raises UserError."""
        own = mode == "val" and bool(val_data_root)
        files = self.files(val_data_root if own else root, "val" if own else "train")
        # A checkpoint may be validated on a machine without its training data.
        others = self.files([one for one in as_list(root) if Path(one).exists()], "train") if own else []
        categories, labels = label_categories([*files, *others])
        ignored = self.crowds == "ignore"
        for text in (one for file in files for one in read_coco(file).notes + read_coco(file).crowds * ignored):
            note_once(text)
        every = [one for file in files for picture in read_coco(file).pictures for one in picture.annotations]
        crowds = [one["iscrowd"] and ignored for one in every]
        if mode == "train" and all(crowds):
            why = f"all {len(crowds)} annotations are crowds (iscrowd 1): --crowds=objects if each is a single object"
            raise UserError(f"{shown(files)} has nothing to train on: {why if crowds else 'there is no annotation'}")
        pictures = unique(find_pictures(file, read_coco(file).pictures) for file in files)
        few = f"{shown(root)} has {counted(len(pictures), 'picture')}"
        pictures = part_of(sorted(pictures, key=digest), mode, val_data_root, val_size, few)
        return [relabel(picture, labels, self.crowds) for picture in pictures], categories

    def files(self, roots: Roots, split: str) -> list[Path]:
        """The COCO files of roots, see find_json."""
        return [find_json(one, split, self.kind) for one in as_list(roots)]

    def unlabelled(self, root: Roots) -> tuple[list[Picture], dict[int | str, str]]:
        """(the Pictures to predict, in the order of their ids, {category id: name} as their files have them). Raises
        UserError."""
        groups, categories = [], {}
        for one in as_list(root):
            if Path(one).is_file():
                content = read_coco(one, labelled=False)
                groups.append(find_pictures(Path(one), content.pictures))
                categories |= content.categories
            else:
                groups.append(numbered(one))
        return sorted(unique(groups), key=lambda picture: in_order(picture.id)), categories

    def scaled(self, picture: Picture) -> Picture:
        """A Picture whose size is known, with its annotations in pixels; here they are."""
        return picture

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
        pictures, images = [self.pictures[index] for index in indices], self.images[indices]
        targets = [picture.id if self.mode == "test" else self.target(picture) for picture in pictures]
        for row, picture in zip(images, pictures, strict=True):
            if picture.turn != 1:
                row[:] = turned(row, picture, self.fit(picture))
        return images.permute(0, 3, 1, 2), targets

    def fit(self, picture: Picture) -> tuple[int, int]:
        """(h, w), the size of a picture in the square or rectangle."""
        return fitted(picture.height, picture.width, self.size)

    def truth(self, picture: Picture) -> list[dict[str, Any]]:
        """The annotations that count in this mode."""
        return [one for one in picture.annotations if self.mode == "val" or not one["iscrowd"]]

    def target(self, picture: Picture) -> dict[str, Any]:
        """The truth about a picture, see the class."""
        height, width = self.fit(picture)
        truth = self.truth(picture)
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
        part is cut off, from the masks too. In train mode a coin per picture flips it with its boxes and masks, see
        `mirrored`."""
        sizes = [self.fit(self.by_id[one]) if self.mode == "test" else one["size"] for one in target]
        images = [image[:, :h, :w] for image, (h, w) in zip(input.float() / 255, sizes, strict=True)]
        if self.mode == "test":
            return images, target
        target = [{**one, "masks": one["masks"][:, :h, :w]} for one, (h, w) in zip(target, sizes, strict=True)]
        if self.mode == "train":
            coins = torch.rand(len(images), generator=generator, device=input.device) < self.flips
            flipped = [flip(*one, self.mirrored) for one in zip(images, target, coins, strict=True)]
            images, target = [image for image, _ in flipped], [one for _, one in flipped]
        return images, target

    def mirrored(self, target: dict[str, Any], width: int) -> dict[str, torch.Tensor]:
        """What is different in the target of a prepared picture once it is flipped; width: the picture's, pixels."""
        return mirrored(target, width)

    def meter(self) -> CocoMeter | NoMeter:
        """COCO's average precisions; in train mode, without detections, nothing."""
        return NoMeter() if self.mode == "train" else CocoMeter(self.pictures, self.categories)

    def draw(self, input: list[torch.Tensor], target: list[Any], prediction: list[Any] | None) -> list[torch.Tensor]:
        """Up to four pictures of a prepared batch, truth and detections side by side, see compared."""
        found = [None] * len(input) if prediction is None else prediction
        batch = list(zip(input, target, found, strict=True))[:DRAWN]
        return [compared(*one, self.classes, self.skeleton) for one in batch]

    def write_results(self, path: str, predictions: Iterable[tuple[list[Any], Any]]) -> None:
        """Write COCO's JSON of results, in the pictures' own pixels: a list of {image_id, category_id, file_name,
        bbox [x, y, w, h], score, segmentation as compressed run lengths if the model predicts masks}. Ids are those of
        the file that lists the pictures, see category_ids."""
        categories = category_ids(self.classes, self.written_ids, path)

        def write(file: IO[str]) -> None:
            mark = "["
            for ids, batch in predictions:
                for id, detections in zip(ids, batch, strict=True):
                    for result in to_results(detections, self.by_id[id], self.fit(self.by_id[id])):
                        result["category_id"] = categories.get(result["category_id"], result["category_id"])
                        result["file_name"] = self.by_id[id].path.name
                        file.write(mark + json.dumps(result, separators=(",", ":")))
                        mark = ",\n"
            file.write("[]\n" if mark == "[" else "]\n")

        write_atomically(path, write)


def mirrored(target: dict[str, Any], width: int) -> dict[str, torch.Tensor]:
    """See CocoMask.mirrored."""
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    return {"boxes": torch.stack([width - x2, y1, width - x1, y2], dim=1), "masks": target["masks"].flip(-1)}


def flip(
    image: torch.Tensor,
    target: dict[str, Any],
    coin: torch.Tensor,
    mirrored: Callable[[dict[str, Any], int], dict[str, torch.Tensor]] = mirrored,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Flip a picture [3, h, w] and its target horizontally if coin, a bool tensor [], is true.

    Both versions are computed and one is chosen, so that the host does not wait for the coin.
    """
    other = mirrored(target, image.shape[2])
    chosen = {name: torch.where(coin, values, target[name]) for name, values in other.items()}
    return torch.where(coin, image.flip(-1), image), {**target, **chosen}
