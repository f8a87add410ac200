"""What torchvision's detectors have in common."""

import torch

from .basic_module import BasicModule, ModelError

# torchvision computes boxes in the type of what these give, and their places are too large for 16 bits: bf16 has 8
# binary digits, so that at 600 pixels a place would be a multiple of 4.
HEADS = ("head", "rpn.head", "roi_heads.box_predictor", "roi_heads.mask_predictor", "roi_heads.keypoint_predictor")
ANCHORS = ("anchor_generator", "rpn.anchor_generator")  # theirs is the type of the feature maps


class Detector(BasicModule):
    """One of torchvision's detectors, which bring their own losses; a subclass hands it to __init__.

    Images are a list of float32 [3, h, w] from 0 to 1, of any sizes; they are seen in the sizes they have. Targets are
    a list of dicts: boxes float32 [n, 4] (x1, y1, x2, y2), labels int64 [n] from 1, masks uint8 [n, h, w]. Detections
    are a list of dicts, the best first: boxes [n, 4], labels [n], scores [n] and, where the model draws them, masks
    float [n, 1, h, w] from 0 to 1.
    """

    task = "detection"
    val_loss = False
    inner = "detector"

    def __init__(self, detector):
        super().__init__()
        self.detector = detector
        detector.transform.resize = as_it_is
        for name, module in detector.named_modules():
            if name in HEADS:
                module.register_forward_hook(lambda module, inputs, output: in_float32(output))
            if name in ANCHORS:
                module.register_forward_pre_hook(lambda module, inputs: (inputs[0], shapes(inputs[1])))

    def set_criterion(self, names=None, weight=None):
        """Raises ModelError for anything but the model's own losses."""
        if names or weight is not None:
            asked = f"--criterion={names}" if names else "--class-weights"
            raise ModelError(f"{self.model_name} learns with its own losses: leave {asked} out")

    def forward(self, images):
        """Images -> detections, in eval mode."""
        return self.detector(images)

    def objective(self, input, target):
        """In training mode ([], torchvision's losses by name), for there are no detections; else (detections, {})."""
        return ([], self.detector(input, target)) if self.training else (self(input), {})

    def decode(self, score):
        """Detections are predictions already."""
        return score


def as_it_is(image, target=None):
    """Instead of torchvision's own resizing: the data set has brought the images to the size that was asked for."""
    return image, target


def in_float32(output):
    """The same, the numbers of tensors and of lists, tuples and dicts of them in float32."""
    if isinstance(output, dict):
        return {key: in_float32(value) for key, value in output.items()}
    if isinstance(output, (list, tuple)):
        return type(output)(in_float32(value) for value in output)
    return output.float() if isinstance(output, torch.Tensor) and output.is_floating_point() else output


def shapes(features):
    """Tensors of the shapes and on the device of a list of feature maps, float32, without memory of their own."""
    return [torch.zeros((), device=feature.device).expand(feature.shape) for feature in features]
