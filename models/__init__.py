"""Models are picked by name: getattr(models, opt.model). A new one is one file here and one line below."""

from .alexnet import AlexNet
from .resnet34 import ResNet34
from .squeezenet import SqueezeNet
