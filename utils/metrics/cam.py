"""Where a classifier looks: class activation maps."""

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook

from utils import UserError
from utils.train.device import device_of, one_batch, undisturbed

COLORMAP, STRONGEST = "plasma", 0.75  # of a map, and how much of it covers the picture where it is highest


def class_activation_maps(
    model: torch.nn.Module, input: torch.Tensor, classes: torch.Tensor | None = None
) -> torch.Tensor:
    """Grad-CAM (Selvaraju et al. 2016, arXiv:1610.02391): how much each place contributes to a class.

    The map is that of the last layer whose output is a picture of more than one place, in the input's proportions. The
    model, its mode, its gradients and the random generators do not change.

    Args:
        model: any module, images [N, 3, H, W] -> scores [N, C].
        input: float [N, 3, H, W], on the model's device.
        classes: int64 [N], the class of each map; None: the predicted ones.

    Returns float [N, H, W] from 0 to 1, all 0 if nothing contributes to the class. Raises UserError when there is no
    such layer, as in perceptrons, or later layers combine all places, as in vision transformers.
    """
    return enlarged(coarse_maps(model, input, classes), input.shape[2:])


def coarse_maps(model: torch.nn.Module, input: torch.Tensor, classes: torch.Tensor | None = None) -> torch.Tensor:
    """The same maps as the layer has them, float [N, h, w] from 0 up: a number for each of its places."""
    last: torch.Tensor | None = None

    def watch(module: torch.nn.Module, arguments: Any, output: Any) -> None:
        nonlocal last
        if isinstance(output, torch.Tensor) and output.ndim > 2 and output[0, 0].numel() > 1:
            last = output

    with register_module_forward_hook(watch), undisturbed(model), torch.enable_grad():  # every module's hook
        # Parameters may be frozen, so the input requires the gradient.
        score = model(input.detach().clone().requires_grad_())
        if last is None or not is_picture_of(last, input) or score.ndim != 2:
            name = getattr(model, "model_name", type(model).__name__)
            raise UserError(
                f"{name} has no class activation maps: they need images, a classifier, and a last layer of "
                "features that has places, as in convolutional networks"
            )
        classes = score.argmax(dim=1) if classes is None else classes
        chosen = score.gather(1, classes.clone().unsqueeze(1)).sum()  # clone: inference tensors have no gradient
        (slope,) = torch.autograd.grad(chosen, last)
    weight = slope.float().mean(dim=(2, 3), keepdim=True)  # [N, K, 1, 1]
    return (weight * last.detach().float()).sum(dim=1).relu()


def enlarged(maps: torch.Tensor, size: Any) -> torch.Tensor:
    """Maps [N, h, w] -> [N, H, W] of size (H, W), each from 0 to 1, its largest value, but for maps that are all 0."""
    maps = F.interpolate(maps.unsqueeze(1), size=size, mode="bilinear").squeeze(1)
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def is_picture_of(features: torch.Tensor, input: torch.Tensor) -> bool:
    """Whether features are [N, K, h, w] with about the proportions of the input [N, 3, H, W]: [N, h, w, K] are not."""
    if features.ndim != 4 or input.ndim != 4:
        return False
    (h, w), (height, width) = features.shape[2:], input.shape[2:]
    return h <= height and w <= width and abs(h - height * w / width) <= 1


def overlay(image: torch.Tensor, map: torch.Tensor) -> torch.Tensor:
    """uint8 [3, H, W] and a map, float [H, W] from 0 to 1 -> uint8 [3, H, W]: the image where the map is 0; the higher
    it is, the more of its colour."""
    from matplotlib import colormaps

    map = map.cpu()
    colour = torch.from_numpy(colormaps[COLORMAP](map.numpy())[..., :3]).permute(2, 0, 1) * 255
    return torch.lerp(image.cpu().double(), colour, STRONGEST * map.double()).round().to(torch.uint8)


def draw(model: Any, dataset: Any, count: int, folder: str | Path) -> None:
    """Write <folder>/cam_000.png, cam_001.png, ... of the first `count` samples of a data set of mode val: the picture
    and its map of the predicted class. Raises UserError unless items are (uint8 [3, H, W], class as int)."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    from .plots import save, short

    for index in range(min(count, len(dataset))):
        image, label = dataset[index]
        if getattr(image, "dtype", None) != torch.uint8 or image.ndim != 3 or not isinstance(label, int):
            raise UserError(f"--cam={count}: {type(dataset).__name__} has no pictures with a class: leave --cam out")
        input, _ = one_batch(dataset, [index], device_of(model))
        maps = coarse_maps(model, input)
        (map,) = enlarged(maps.cpu(), image.shape[1:])
        with undisturbed(model), torch.no_grad():
            share, predicted = model.predict(input)[0].max(dim=0)
        true, name = short(dataset.classes[label]), short(dataset.classes[predicted])
        figure = Figure(figsize=(8, 4), layout="compressed")
        axes = figure.subplots(1, 2)
        for place, shown in zip(axes, (image, overlay(image, map)), strict=True):
            place.imshow(shown.permute(1, 2, 0).numpy())
            place.axis("off")
        axes[0].set_title(f"true: {true}")
        axes[1].set_title(f"predicted: {name}, {100 * share:.1f} %")
        scale = ScalarMappable(Normalize(0, 1), cmap=COLORMAP)
        height, width = maps.shape[1:]
        what = f"contribution to {name}" if map.any() else f"nothing contributes to {name}"
        figure.colorbar(scale, ax=axes, label=f"{what}\n(1: the most; the map has {height} x {width} places)")
        save(figure, Path(folder) / f"cam_{index:03d}.png")
