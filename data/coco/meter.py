"""How well objects are detected: COCO's average precisions, by pycocotools, and PASCAL VOC's."""

import contextlib
import functools
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchnet.meter.meter import Meter

from utils.files import write_csv

from .format import Picture, to_results
from .values import in_order

KEYPOINT_STATS = tuple("AP AP50 AP75 AP_medium AP_large AR AR50 AR75 AR_medium AR_large".split())
STATS = tuple("AP AP50 AP75 AP_small AP_medium AP_large AR1 AR10 AR100 AR_small AR_medium AR_large".split())
KINDS = {  # our name: (pycocotools', its numbers)
    "box": ("bbox", STATS),
    "mask": ("segm", STATS),
    "keypoint": ("keypoints", KEYPOINT_STATS),
}
SIGMA = 0.05  # of every keypoint where they are not COCO's 17, whose sigmas are 0.025 to 0.107
NAN = float("nan")


class CocoMeter(Meter):
    """COCO's twelve numbers for boxes and for masks, all in %, of the pictures that were added.

    Detections are kept as COCO's results, in the pictures' own pixels, masks as run lengths.

    Args:
        pictures: the Pictures, with the truth.
        categories: {id: name}.
    """

    other = "mask"  # the kind that is measured besides boxes

    def __init__(self, pictures: Iterable[Picture], categories: dict[int, str]):
        self.pictures, self.categories = {picture.id: picture for picture in pictures}, categories
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.results: list[dict[str, Any]] = []
        self.seen: list[int | str] = []
        self.masks = False
        self.measured: dict[str, dict[str, float]] | None = None

    def add(self, prediction: list[dict[str, torch.Tensor]], target: list[dict[str, Any]]) -> None:
        """Add a batch: lists of detections and of targets (image_id, size), see models/detector.py and CocoMask."""
        for detections, truth in zip(prediction, target, strict=True):
            self.results += to_results(detections, self.pictures[truth["image_id"]], truth["size"])
            self.seen.append(truth["image_id"])
            self.masks |= f"{self.other}s" in detections
        self.measured = None

    def value(self) -> dict[str, dict[str, float]]:
        """{"box": {name: %}, "mask": {name: %}} with COCO's twelve STATS, rounded; nan when nothing was added."""
        return {
            kind: {name: round(table[name], 2) for name in KINDS[kind][1]} for kind, table in self.measure().items()
        }

    def summary(self) -> dict[str, float]:
        """AP at an IoU of 0.5 and averaged over 0.5 to 0.95, of boxes and masks, and VOC's mAP of boxes, in %; nan
        before the first prediction. After it those of masks are left out if the model predicts no masks."""
        box, mask = self.measure().values()
        summary = {
            "box_ap50": box["AP50"],
            "mask_ap50": mask["AP50"],
            "box_ap": box["AP"],
            "mask_ap": mask["AP"],
            "box_voc_map": box["VOC_mAP"],
        }
        without = self.seen and not self.masks
        return {name: value for name, value in summary.items() if not (without and name.startswith("mask"))}

    def report(self, folder: Any) -> None:
        """Write coco.csv in `folder`: a row per number, including those of single classes, in % for boxes and masks."""
        box, other = self.measure().values()
        both = [(name, box.get(name, NAN), other.get(name, NAN)) for name in box | other]
        rows = ([name, *("" if v != v else f"{v:.2f}" for v in values)] for name, *values in both)
        write_csv(Path(folder) / "coco.csv", ["measure", "box", self.other], rows)

    def state_dict(self) -> dict[str, Any]:
        """What load_state_dict needs to continue counting, plain values."""
        return {"results": self.results, "seen": self.seen, "masks": self.masks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state_dict()."""
        self.__dict__.update(state, measured=None)

    def merge(self, states: list[dict[str, Any]]) -> None:
        """Continue from the state_dict()s of several meters."""
        self.results, self.seen = (sum((state[name] for state in states), []) for name in ("results", "seen"))
        self.masks, self.measured = any(state["masks"] for state in states), None

    def measure(self) -> dict[str, dict[str, float]]:
        """{"box": {name: %}, "mask": {name: %}} of STATS, VOC_mAP and every class's AP; computed once."""
        if self.measured is None:
            there = {"box": bool(self.seen), self.other: self.masks}
            self.measured = {kind: self._table(kind, fine) for kind, fine in there.items()}
        return self.measured

    def _table(self, kind: str, there: bool) -> dict[str, float]:
        iou_type, stats = KINDS[kind]
        names = [*stats, "VOC_mAP", *(f"AP {name}" for name in self.categories.values())]
        if not there:
            return dict.fromkeys(names, NAN)
        truth = (annotation for id in self.seen for annotation in self.pictures[id].annotations)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints every step
            judge = self._judge(self._index(truth), self._index(self._found(kind)), iou_type)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
        precision = judge.eval["precision"][:, :, :, 0, -1]  # [thresholds, recalls, classes]: of any area, 100 an image
        classes = [one[one > -1].mean() if (one > -1).any() else -1 for one in np.moveaxis(precision, 2, 0)]
        numbers = [*judge.stats, voc_map(judge.evalImgs, judge.params.areaRng[0]), *classes]
        return {name: 100 * float(n) if n > -1 else NAN for name, n in zip(names, numbers, strict=True)}

    def _judge(self, truth: Any, found: Any, iou_type: str) -> Any:
        """A pycocotools COCOeval."""
        from pycocotools.cocoeval import COCOeval

        judge = COCOeval(truth, found, iou_type)
        judge.computeIoU = functools.partial(overlaps, judge)
        return judge

    def _found(self, kind: str) -> Iterator[dict[str, Any]]:
        for result in self.results:
            if kind == "mask":
                from pycocotools import mask

                area = float(mask.area(result["segmentation"]))  # decides what is small: the mask's area, not the box's
            elif kind == "keypoint":
                xs, ys = result["keypoints"][::3], result["keypoints"][1::3]
                area = (max(xs) - min(xs)) * (max(ys) - min(ys))  # as in pycocotools' loadRes
            else:
                area = result["bbox"][2] * result["bbox"][3]
            yield {**result, "area": area, "iscrowd": 0}

    def _index(self, annotations: Iterable[dict[str, Any]]) -> Any:
        """A pycocotools COCO of annotations; they are copied, because it writes into them."""
        from pycocotools.coco import COCO

        # Its ids have to be numbers that sort as ours, and that of an annotation may not be 0.
        coco, numbers = COCO(), {id: number for number, id in enumerate(sorted(self.seen, key=in_order))}
        sized = [(numbers[id], self.pictures[id]) for id in self.seen]
        coco.dataset = {
            "images": [{"id": number, "height": one.height, "width": one.width} for number, one in sized],
            "categories": [{"id": id, "name": name} for id, name in self.categories.items()],
            "annotations": [
                {**one, "id": id, "image_id": numbers[one["image_id"]]} for id, one in enumerate(annotations, start=1)
            ],
        }
        coco.createIndex()
        return coco


def overlaps(judge: Any, image: int, category: int) -> Any:
    """COCOeval.computeIoU, but of VOC's difficult objects the IoU is taken, as of others, and not the share of the
    detection that lies in them, as of crowds."""
    truth = judge._gts[image, category]
    for one in truth:
        one["iscrowd"] -= one.get("difficult", 0)
    found = type(judge).computeIoU(judge, image, category)
    for one in truth:
        one["iscrowd"] += one.get("difficult", 0)
    return found


def voc_map(images: Iterable[Any], area: Sequence[float]) -> float:
    """PASCAL VOC's mean average precision at an IoU of 0.5, 0 to 1, or -1 without any truth.

    images: COCOeval.evalImgs, whose matches are used; crowds count as VOC's difficult objects and are ignored.
    area: the range of areas whose entries are used.
    """
    classes: dict[int, tuple[list[Any], list[Any], list[Any]]] = {}
    for image in images:
        if image is not None and image["aRng"] == area:
            counted = ~image["dtIgnore"][0].astype(bool)  # [0]: of the threshold 0.5
            scores, right, truths = classes.setdefault(image["category_id"], ([], [], []))
            scores.append(np.array(image["dtScores"])[counted])
            right.append(image["dtMatches"][0][counted] > 0)
            truths.append(np.sum(image["gtIgnore"] == 0))
    parts = [(np.concatenate(scores), np.concatenate(right), sum(truths)) for scores, right, truths in classes.values()]
    return float(np.mean([voc_ap(*part) for part in parts if part[2]])) if any(part[2] for part in parts) else -1


def voc_ap(scores: np.ndarray, right: np.ndarray, truths: int) -> float:
    """Average precision of one class: the area under the precision-recall curve after it is made monotonic, as in VOC
    2010 and later (https://host.robots.ox.ac.uk/pascal/VOC/voc2012/devkit_doc.pdf, 3.4.1).

    scores float [n]; right bool [n], whether the detection matches one of the `truths` objects.
    """
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precision = hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(hits / truths, prepend=0) * envelope))


class KeypointMeter(CocoMeter):
    """COCO's numbers for boxes and, by the similarity of keypoints (OKS), for keypoints, all in %.

    Args:
        count: number of keypoints of an object.
    """

    other = "keypoint"

    def __init__(self, pictures: Iterable[Picture], categories: dict[int, str], count: int):
        super().__init__(pictures, categories)
        self.count = count

    def summary(self) -> dict[str, float]:
        """AP by OKS, averaged over 0.5 to 0.95 and at 0.5, and AP of boxes, in %; nan before the first prediction."""
        box, points = self.measure().values()
        names = {"keypoint_ap": points["AP"], "keypoint_ap50": points["AP50"], "box_ap50": box["AP50"]}
        return {**names, "box_ap": box["AP"]}

    def _judge(self, truth: Any, found: Any, iou_type: str) -> Any:
        judge = super()._judge(truth, found, iou_type)
        if self.count != 17:
            judge.params.kpt_oks_sigmas = np.full(self.count, SIGMA)
        return judge


class NoMeter(Meter):
    """Measures nothing: a detector returns no detections in training."""

    def reset(self, *_: Any) -> None:
        """Do nothing, whatever it is given."""

    def value(self) -> dict[str, float]:
        """{}"""
        return {}

    add = report = load_state_dict = merge = reset
    summary = state_dict = value
