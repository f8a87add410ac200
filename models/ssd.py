"""SSD, the single shot detector (Liu et al. 2015, arXiv:1512.02325), torchvision's."""

from .detector import Detector


class SSD(Detector):
    """torchvision's SSDLite on a MobileNetV3 (Howard et al. 2019, arXiv:1905.02244), from scratch. Boxes, no masks.

    Of torchvision's two SSDs it is the one that learns from scratch, as it has BatchNorm and the VGG16 of the other has
    none; and with 0.6 GFLOPs an image of 320 pixels instead of 35 it does so on a laptop.
    """

    head = "detector.head"

    def __init__(self, num_classes=91):
        from torchvision.models.detection import ssdlite320_mobilenet_v3_large  # here: it takes as long as torch

        super().__init__(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=num_classes))
