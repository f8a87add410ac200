"""Data sets are picked by name: getattr(data, opt.dataset). A new one is one file here and one line below."""

from .cifar10 import CIFAR10
from .coco.data_set import CocoMask
from .coco.keypoints import CocoKeypoints
from .demo import Demo
from .dogcat import DogCat
from .heart import Heart
from .image_folder import ImageFolder
from .list_file import ListFile
from .mask_folder import MaskFolder
from .voc import VOC
from .yolo import YOLO
