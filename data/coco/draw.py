"""Pictures with objects drawn on them: boxes, masks and names."""

import colorsys
from collections.abc import Sequence
from typing import Any

import torch

from data.pictures.sheet import beside
from utils.notices import counted

SURE = 0.5  # detections with a lower score are not drawn
SIDE = 480  # pixels that a drawn picture should have on its longer side


def compared(
    image: torch.Tensor,
    truth: dict[str, Any],
    found: dict[str, torch.Tensor] | None,
    classes: Sequence[str],
    skeleton: Sequence[tuple[int, int]] = (),
) -> torch.Tensor:
    """The truth, and beside it the detections with a score of at least 0.5, with headings, uint8 [3, H, W].

    image: float [3, h, w] from 0 to 1; truth and found: a target of CocoMask and a model's detections in it, or None:
    the truth alone; skeleton: pairs of keypoints that lines connect.
    """
    true = f"truth: {counted(len(truth['labels']), 'object')}"
    if found is None:
        return beside([overlay(image, truth, classes, skeleton).permute(1, 2, 0).numpy()], [true])
    scores = found["scores"]
    sure = scores >= SURE
    heading = f"found: {counted(int(sure.sum()), 'object')} with a score of at least {SURE}"
    if not sure.any():
        heading = f"found: nothing with a score of at least {SURE}"
        if len(scores):
            heading += f"; the highest: {classes[int(found['labels'][scores.argmax()])]} {scores.max():.2f}"
    found = {name: values[sure] for name, values in found.items()}
    pictures = [overlay(image, objects, classes, skeleton).permute(1, 2, 0).numpy() for objects in (truth, found)]
    return beside(pictures, (true, heading))


def overlay(
    image: torch.Tensor, objects: dict[str, Any], classes: Sequence[str], skeleton: Sequence[tuple[int, int]] = ()
) -> torch.Tensor:
    """The picture with the objects on it, uint8 [3, H, W], enlarged if it is small."""
    from torchvision.utils import (
        draw_bounding_boxes,
        draw_keypoints,
        draw_segmentation_masks,
    )  # here: takes long to load

    from utils.metrics.fonts import font_file, in_font  # as does matplotlib

    zoom = max(1, round(SIDE / max(image.shape[1:])))
    drawn = (image * 255).round().byte().cpu().repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    labels = objects["labels"].tolist()
    if not labels:
        return drawn
    font = font_file("".join(classes))
    names = [in_font(classes[label], font) for label in labels]
    if "scores" in objects:
        names = [f"{name} {score:.2f}" for name, score in zip(names, objects["scores"].tolist(), strict=True)]
    colours: Any = [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(label * 0.618 % 1, 0.9, 1)) for label in labels]
    dark = [0.3 * red + 0.59 * green + 0.11 * blue < 128 for red, green, blue in colours]
    if "masks" in objects:
        masks = objects["masks"].reshape(-1, *image.shape[1:]).cpu() > 0.5
        masks = masks.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
        drawn = draw_segmentation_masks(drawn, masks, alpha=0.45, colors=colours)
    for points, colour in zip(objects.get("keypoints", torch.zeros(0)).cpu(), colours, strict=False):
        drawn = draw_keypoints(
            drawn, points[None, :, :2] * zoom, list(skeleton), colour, visibility=points[None, :, 2] > 0
        )
    return draw_bounding_boxes(
        drawn,
        objects["boxes"].cpu() * zoom,
        names,
        colours,
        width=2,
        font=font,
        font_size=14,
        label_colors=["white" if one else "black" for one in dark],
        fill_labels=True,
    )
