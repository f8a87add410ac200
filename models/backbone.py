"""Every classifier of torchvision, and of timm if it is installed, by its own name: --model=resnet18."""

import contextlib
import inspect
import typing
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from utils import UserError
from utils.options.kinds import height_width

from .basic_module import BasicModule
from .features import FeatureCache

IMAGENET = (0.485, 0.456, 0.406, 0.229, 0.224, 0.225)  # mean and deviation, as data/pictures/augment.py has them


class Backbone(BasicModule):
    """A library's classifier with a new head, untrained. Images [N, 3, H, W] -> scores [N, C].

    Args:
        name: as torchvision or timm register it.
        num_classes: C.
        image_size: side of the square images, pixels, or "320x192", width x height; for models that need it when they
            are built (vit_b_16, ...).
        width: factor on the numbers of channels, for models that come in several widths (mobilenet_v2, resnet50, ...).
        mean_std: of the pictures that its weights expect: six numbers, or none for ImageNet's, by which the data sets
            normalise.
        augment: False: pictures come again unchanged, so that a frozen body, on a CPU, looks at each of them once.

    Raises UserError for a size or width that this model does not support.
    """

    inner = "net"

    def __init__(
        self,
        name: str,
        num_classes: int = 2,
        image_size: int | str = 224,
        width: float = 1.0,
        mean_std: Sequence[float] = (),
        augment: bool = True,
    ):
        super().__init__()
        if len(mean_std) not in (0, 6) or not all(mean_std[3:]):
            raise UserError(f"--mean-std={','.join(map(str, mean_std))}: three means and three deviations are needed")
        self.model_name, self.mean_std, self.augment = name, tuple(mean_std), augment
        build = torchvision_classifier if name in torchvision_names() else timm_classifier
        try:
            self.net, head = build(name, num_classes, image_size, width)
        except (TypeError, ValueError, AssertionError) as error:
            asked = f"--width={width:g}" if width != 1 else f"pictures of {image_size} pixels"
            square = "take a square" if isinstance(image_size, str) else "try a multiple of 32"
            hint = "models of several widths are mobilenet_v2, resnet50, ..." if width != 1 else square
            raise UserError(f"{name} cannot be built for {asked} ({error}): {hint}") from None
        self.head = f"net.{head}"
        self.seen = FeatureCache(self.net, head, name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, C]"""
        if self.mean_std not in ((), IMAGENET):
            factor, shift = rescaling(x.device, self.mean_std)
            x = x * factor + shift
        frozen = not any(p.requires_grad for name, p in self.named_parameters() if not name.startswith(f"{self.head}."))
        trains_or_validates = (
            torch.is_grad_enabled() or torch.is_inference_mode_enabled()
        )  # else FLOPs are counted, say
        return self.seen(x) if frozen and not self.augment and not x.is_cuda and trains_or_validates else self.net(x)


@lru_cache(maxsize=16)
def rescaling(device: torch.device, mean_std: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """(factor, shift), float32 [3, 1, 1] each, from pictures that ImageNet's mean and deviation have normalised to such
    by `mean_std`. Cached: a copy to a GPU waits for it."""
    mean, std, wanted_mean, wanted_std = torch.tensor([*IMAGENET, *mean_std], dtype=torch.float64).view(4, 3, 1, 1)
    both = std / wanted_std, (mean - wanted_mean) / wanted_std
    return tuple(one.to(device, torch.float32) for one in both)


def find(name: str) -> partial[Backbone]:
    """The constructor of the classifier `name`. Raises AttributeError when neither torchvision nor timm has it."""
    if name in torchvision_names():
        return partial(Backbone, name)
    with contextlib.suppress(ImportError):  # timm need not be installed
        import timm

        if timm.is_model(name):
            return partial(Backbone, name)
    raise AttributeError(f"no model {name}: neither a class of models/ nor a classifier of torchvision or timm")


def torchvision_names() -> list[str]:
    """Names of torchvision's classifiers."""
    from torchvision import models  # here, not above: it takes as long to load as torch itself

    return models.list_models(module=models)


def torchvision_classifier(name: str, num_classes: int, image_size: int | str, width: float) -> tuple[nn.Module, str]:
    """(network, name of its head)"""
    from torchvision.models import get_model_builder

    builder = get_model_builder(name)
    arguments = inspect.signature(typing.get_type_hints(builder)["return"]).parameters  # of the network's class
    options: dict[str, Any] = {
        "image_size": image_size,  # vision transformers
        "input_size": (image_size, image_size),  # MaxViT
        "aux_logits": False,  # Inception and GoogLeNet: a second and third head, only for training
        "init_weights": True,
    }
    options = {key: value for key, value in options.items() if key in arguments}
    if isinstance(image_size, str) and options.keys() & {"image_size", "input_size"}:
        raise ValueError("it takes squares only")
    if width != 1:  # ResNets have it per group
        options |= {"width_per_group": round(64 * width)} if "width_per_group" in arguments else {"width_mult": width}
    net = builder(weights=None, num_classes=num_classes, **options)
    return net, list(dict(net.named_children()))[-1]


def timm_classifier(name: str, num_classes: int, image_size: int | str, width: float) -> tuple[nn.Module, str]:
    """(network, name of its head)"""
    import timm

    if width != 1:
        raise ValueError("timm's models have a name for every width")
    size = height_width(image_size) if isinstance(image_size, str) else image_size
    net: Any
    try:
        net = timm.create_model(name, num_classes=num_classes, img_size=size)
    except TypeError:  # a network for any size, without that argument
        net = timm.create_model(name, num_classes=num_classes)
    head = net.pretrained_cfg["classifier"]
    return net, head if isinstance(head, str) else head[0]
