"""COCO's keypoints: CocoMask with points of the objects, a person's joints say."""

import re
from typing import Any

import torch

from data.pictures.split import Roots, shown
from utils import UserError
from utils.notices import note_once

from .data_set import CocoMask
from .format import Picture, read_coco
from .meter import CocoMeter, KeypointMeter, NoMeter

SIDES = {"left": "right", "right": "left"}


class CocoKeypoints(CocoMask):
    """CocoMask whose targets have keypoints, too: float32 [n, K, 3] (x, y in pixels of the square; 0 where the point is
    not labelled, 1 hidden, 2 visible). In a folder the COCO file is annotations/person_keypoints_*.json.

    When a picture is flipped, left and right points change places: those whose names differ by these words. Pictures
    are not flipped where the file does not name its points. Objects without points teach their boxes alone.

    Args:
        keypoints: K.
        options: the other arguments of CocoMask.

    Raises UserError for a file without keypoints, or with another number of them.
    """

    task = "keypoints"
    kind = "person_keypoints"

    def __init__(self, root: Roots, mode: str, keypoints: int = 17, **options: Any):
        self.count, self.swapped = keypoints, list(range(keypoints))
        super().__init__(root, mode, **options)

    def labelled(
        self, root: Roots, mode: str, val_data_root: Roots, val_size: int | None
    ) -> tuple[list[Picture], dict[int, str]]:
        """See CocoMask."""
        pictures, categories = super().labelled(root, mode, val_data_root, val_size)
        own = mode == "val" and bool(val_data_root)
        files = self.files(val_data_root if own else root, "val" if own else "train")
        points = [one for file in files for one in read_coco(file).points]
        labelled = [one["keypoints"] for picture in pictures for one in picture.annotations if "keypoints" in one]
        if not labelled:
            raise UserError(f"{shown(files)} has no keypoints: give person_keypoints_*.json, or --dataset=CocoMask")
        for count in {len(names) for names, _ in points} | {len(one) // 3 for one in labelled}:
            if count != self.count:
                raise UserError(
                    f"{shown(files)} has {count} keypoints of an object, not {self.count}: --keypoints={count}"
                )
        if points:
            names, skeleton = points[0]
            self.swapped = swapped([str(name) for name in names])
            self.skeleton = [(a - 1, b - 1) for a, b in skeleton if 1 <= min(a, b) and max(a, b) <= self.count]
        else:
            self.flips = 0.0
            note_once(
                f"{shown(files)} does not name its keypoints, which is left and which right: pictures are not flipped"
            )
        return [self.with_points(picture) for picture in pictures], categories

    def with_points(self, picture: Picture) -> Picture:
        """A Picture all of whose annotations have keypoints and num_keypoints, as COCO's evaluation needs them."""
        nothing = [0] * (3 * self.count)
        points = [one.get("keypoints", nothing) for one in picture.annotations]
        return picture._replace(
            annotations=[
                {**one, "keypoints": values, "num_keypoints": sum(v > 0 for v in values[2::3])}
                for one, values in zip(picture.annotations, points, strict=True)
            ]
        )

    def target(self, picture: Picture) -> dict[str, Any]:
        """See CocoMask."""
        target, (height, width) = super().target(picture), self.fit(picture)
        points = torch.tensor([one["keypoints"] for one in self.truth(picture)], dtype=torch.float32)
        scale = torch.tensor([width / picture.width, height / picture.height, 1])
        return {**target, "keypoints": points.reshape(-1, self.count, 3) * scale}

    def mirrored(self, target: dict[str, Any], width: int) -> dict[str, torch.Tensor]:
        """See CocoMask."""
        x, y, seen = target["keypoints"][:, self.swapped].unbind(2)
        points = torch.stack([torch.where(seen > 0, width - x, x), y, seen], dim=2)
        return {**super().mirrored(target, width), "keypoints": points}

    def meter(self) -> CocoMeter | NoMeter:
        """COCO's average precisions of keypoints and boxes; in train mode, without detections, nothing."""
        return NoMeter() if self.mode == "train" else KeypointMeter(self.pictures, self.categories, self.count)


def swapped(names: list[str]) -> list[int]:
    """For every keypoint the number of the one whose place it takes when a picture is flipped: left_eye and right_eye
    change places, whatever the case; a name without a partner keeps its own."""
    known = {name.lower(): number for number, name in enumerate(names)}
    others = [re.sub("left|right", lambda found: SIDES[found[0]], name.lower()) for name in names]
    return [known.get(other, number) for number, other in enumerate(others)]
