"""Mask R-CNN (He et al. 2017, arXiv:1703.06870)."""

from .detector import Detector


class MaskRCNN(Detector):
    """torchvision's Mask R-CNN on a ResNet50 with FPN, from scratch; the mask head is 256 wide. See Detector.

    Args:
        num_classes: including the background, which is class 0.
        proposals: regions per image and feature map that the first stage passes on in training, half as many in eval
            mode; the heads learn from half of them, at most 512. 2000 is torchvision's and the paper's number; for
            small pictures of few objects a twentieth is enough, in a fraction of the time.
    """

    head = "detector.roi_heads"

    def __init__(self, num_classes: int = 91, proposals: int = 2000):
        from torchvision.models.detection import maskrcnn_resnet50_fpn  # here: it takes as long to load as torch

        super().__init__(
            maskrcnn_resnet50_fpn(
                weights=None,
                weights_backbone=None,
                num_classes=num_classes,
                rpn_pre_nms_top_n_train=proposals,
                rpn_post_nms_top_n_train=proposals,
                rpn_pre_nms_top_n_test=proposals // 2,
                rpn_post_nms_top_n_test=proposals // 2,
                box_batch_size_per_image=min(512, proposals // 2),
            )
        )
