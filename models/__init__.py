"""Models are picked by name: getattr(models, opt.model). A new one is one file here and one line below."""

import typing

from .alex_net import AlexNet
from .deeplabv3 import DeepLabV3
from .fcn import FCN
from .keypoint_rcnn import KeypointRCNN
from .mask_rcnn import MaskRCNN
from .mlp import MLP
from .resnet import ResNet34
from .squeezenet import SqueezeNet
from .ssd import SSD
from .unet import UNet


def __getattr__(name: str) -> typing.Any:
    """Any classifier of torchvision or timm: resnet18, mobilenet_v2, ..."""
    if name.startswith("_"):
        raise AttributeError(name)
    from .backbone import find

    return find(name)
