"""What torchvision's detectors have in common."""

from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from utils import UserError

from .basic_module import BasicModule

# torchvision computes boxes in the type of these modules' outputs, and coordinates are too large for 16 bits: bf16 has
# 8 binary digits, so that at 600 pixels a coordinate would be a multiple of 4.
HEADS = ("head", "rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor", "roi_heads.keypoint_predictor")
ANCHORS = ("anchor_generator", "rpn.anchor_generator")  # their type is that of the feature maps


class Detector(BasicModule):
    """One of torchvision's detectors, which have their own losses; a subclass passes it to __init__.

    Images are a list of float32 [3, h, w] from 0 to 1, of any sizes; they are not resized. Targets are a list of dicts:
    boxes float32 [n, 4] (x1, y1, x2, y2), labels int64 [n] from 1, masks uint8 [n, h, w], for keypoints also keypoints
    float32 [n, K, 3] (x, y, visibility). Detections are a list of dicts, the best first: boxes [n, 4], labels [n],
    scores [n] and, if the model predicts them, masks float [n, 1, h, w] from 0 to 1, or keypoints [n, K, 3].
    """

    task = "detection"
    val_loss = False
    inner = "detector"

    def __init__(self, detector: Any):
        super().__init__()
        self.detector = detector
        detector.transform.resize = lambda image, target=None: (image, target)  # the data set has resized the images
        for name, module in detector.named_modules():
            if name in HEADS:
                module.register_forward_hook(lambda module, inputs, output: in_float32(output))
            if name in ANCHORS:
                module.register_forward_pre_hook(lambda module, inputs: (inputs[0], shapes(inputs[1])))

    def set_criterion(self, names: str | None = None, weight: Any = None) -> None:
        """Raise UserError for anything but the model's own losses."""
        if names or weight is not None:
            asked = f"--criterion={names}" if names else "--class-weights"
            raise UserError(f"{self.model_name} learns with its own losses: leave {asked} out")

    def forward(self, images: list[torch.Tensor]) -> Any:
        """Images -> detections, in eval mode."""
        return self.detector(images)

    def objective(self, input: Any, target: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        """In training mode ([], torchvision's losses by name), without detections; else (detections, {})."""
        return ([], self.detector(input, target)) if self.training else (self(input), {})

    def decode(self, score: Any) -> Any:
        """Detections are predictions already."""
        return score


def in_float32(output: Any) -> Any:
    """A tensor, or a list, tuple or dict of tensors, with floating point numbers in float32."""
    return tree_map_only(torch.Tensor, lambda one: one.float() if one.is_floating_point() else one, output)


def shapes(features: list[torch.Tensor]) -> list[torch.Tensor]:
    """float32 tensors with the shapes and devices of a list of feature maps, that use no memory of their own."""
    return [torch.zeros((), device=feature.device).expand(feature.shape) for feature in features]
