"""Mask R-CNN (He et al. 2017, arXiv:1703.06870)."""

from .detector import Detector


class MaskRCNN(Detector):
    """torchvision's Mask R-CNN on a ResNet50 with FPN, from scratch; the mask head is 256 wide. See Detector.

    Args:
        num_classes: including the background, which is class 0.
        proposals: regions per image and feature map that the first stage passes on in training, half as many in eval
            mode; the heads learn from half of them, at most 512. 2000 is torchvision's and the paper's number; for
            small pictures of few objects a twentieth is enough, in a fraction of the time.
        masks: whether it has the mask head; without it, it is Faster R-CNN (Ren et al. 2015, arXiv:1506.01497).
        width: factor on the 256 channels of the layer that predicts the masks.
    """

    head = "detector.roi_heads"

    def __init__(self, num_classes: int = 91, proposals: int = 2000, masks: bool = True, width: float = 1.0):
        from torchvision.models import detection  # here: it takes as long to load as torch

        build = detection.maskrcnn_resnet50_fpn if masks else detection.fasterrcnn_resnet50_fpn
        detector = build(
            weights=None,
            weights_backbone=None,
            num_classes=num_classes,
            **regions(proposals),
        )
        if masks and width != 1:
            channels = max(1, round(256 * width))
            detector.roi_heads.mask_predictor = detection.mask_rcnn.MaskRCNNPredictor(256, channels, num_classes)
        super().__init__(detector)


def regions(proposals: int) -> dict[str, int]:
    """torchvision's arguments for `proposals`, see MaskRCNN."""
    return {
        "rpn_pre_nms_top_n_train": proposals,
        "rpn_post_nms_top_n_train": proposals,
        "rpn_pre_nms_top_n_test": proposals // 2,
        "rpn_post_nms_top_n_test": proposals // 2,
        "box_batch_size_per_image": min(512, proposals // 2),
    }
