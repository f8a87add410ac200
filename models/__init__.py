"""Models are picked by name: getattr(models, opt.model). A new one is one file here and one line below."""

import sys
import typing

from .alex_net import AlexNet
from .deeplabv3 import DeepLabV3
from .fcn import FCN
from .keypoint_rcnn import KeypointRCNN
from .mask_rcnn import MaskRCNN
from .mlp import MLP
from .resnet import ResNet34
from .resnet9 import ResNet9
from .squeezenet import SqueezeNet
from .ssd import SSD
from .unet import UNet


def load(path: str) -> typing.Any:
    """A trained model, of a checkpoint or a run's folder, in eval mode: load("best.pth").predict_files(["cat.jpg"])."""
    from utils.deploy import predictor

    return predictor.load(path, sys.modules[__name__])


def __getattr__(name: str) -> typing.Any:
    """Any classifier of torchvision or timm: resnet18, mobilenet_v2, ...; and ExportedFile, which cannot be trained."""
    if name.startswith("_"):
        raise AttributeError(name)
    if name == "ExportedFile":
        from .exported_file import ExportedFile

        return ExportedFile
    from .backbone import find

    return find(name)
