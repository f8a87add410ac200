"""Keypoint R-CNN (He et al. 2017, arXiv:1703.06870, section 5)."""

from .detector import Detector
from .mask_rcnn import regions


class KeypointRCNN(Detector):
    """torchvision's Keypoint R-CNN on a ResNet50 with FPN, from scratch. See Detector.

    Args:
        num_classes: including the background, which is class 0.
        proposals: as of MaskRCNN.
        keypoints: K, the number of points of an object.
    """

    task = "keypoints"
    head = "detector.roi_heads"

    def __init__(self, num_classes: int = 2, proposals: int = 2000, keypoints: int = 17):
        from torchvision.models import detection  # here: it takes as long to load as torch

        options = {"weights": None, "weights_backbone": None, "num_classes": num_classes, **regions(proposals)}
        super().__init__(detection.keypointrcnn_resnet50_fpn(num_keypoints=keypoints, **options))
        # torchvision's loss needs it: main.py has the channels last in memory
        predictor = self.detector.roi_heads.keypoint_predictor
        predictor.register_forward_hook(lambda module, inputs, output: output.contiguous())
