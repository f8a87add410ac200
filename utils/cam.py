"""Where a classifier looks: class activation maps."""

from pathlib import Path

import torch
from torch.nn import functional as F

from . import UserError
from .loader import to_device
from .model_summary import undisturbed


def class_activation_maps(model, input, classes=None):
    """Grad-CAM (Selvaraju et al. 2016, arXiv:1610.02391): how much each place speaks for a class.

    The map is that of the last layer whose output is a picture, with more than one place, in the input's proportions.
    The model, its mode, its gradients and the random generators stay as they were.

    Args:
        model: any module, images [N, 3, H, W] -> scores [N, C].
        input: float [N, 3, H, W], on the model's device.
        classes: int64 [N], the class that each map is of; None: the predicted ones.

    Returns float [N, H, W] from 0 to 1, 0 everywhere where nothing speaks for the class. Raises UserError when there is
    no such layer, as in perceptrons, or others come later that work on all places at once, as in vision transformers.
    """
    last = None

    def watch(module, arguments, output):
        nonlocal last
        if isinstance(output, torch.Tensor) and output.ndim > 2 and output[0, 0].numel() > 1:
            last = output

    hooks = [module.register_forward_hook(watch) for module in model.modules()]
    try:
        with undisturbed(model), torch.enable_grad():
            # Parameters may be frozen: it is the input that makes torch keep the graph.
            score = model(input.detach().clone().requires_grad_())
            if last is None or not is_picture_of(last, input) or score.ndim != 2:
                name = getattr(model, "model_name", type(model).__name__)
                raise UserError(
                    f"{name} has no class activation maps: they need images, a classifier, and a last layer of "
                    "features that has places, as in convolutional networks"
                )
            classes = score.argmax(dim=1) if classes is None else classes
            chosen = score.gather(1, classes.clone().unsqueeze(1)).sum()  # clone: inference tensors have no slope
            (slope,) = torch.autograd.grad(chosen, last)
    finally:
        for hook in hooks:
            hook.remove()
    weight = slope.float().mean(dim=(2, 3), keepdim=True)  # [N, K, 1, 1]
    maps = (weight * last.detach().float()).sum(dim=1, keepdim=True).relu()  # [N, 1, h, w]
    maps = F.interpolate(maps, size=input.shape[2:], mode="bilinear").squeeze(1)
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)


def is_picture_of(features, input):
    """Whether features are [N, K, h, w] with about the proportions of the input [N, 3, H, W]: [N, h, w, K] are not."""
    if features.ndim != 4 or input.ndim != 4:
        return False
    (h, w), (height, width) = features.shape[2:], input.shape[2:]
    return h <= height and w <= width and abs(h - height * w / width) <= 1


def overlay(image, map):
    """uint8 [3, H, W] and a map, float [h, w] from 0 to 1 -> uint8 [3, H, W]: the image, coloured where the map is."""
    from matplotlib import colormaps

    map = F.interpolate(map.cpu()[None, None], size=image.shape[1:], mode="bilinear")[0, 0]  # [H, W]
    colour = torch.from_numpy(colormaps["jet"](map.numpy())[..., :3]).permute(2, 0, 1) * 255
    return (0.5 * image.cpu() + 0.5 * colour).round().to(torch.uint8)


def draw(model, dataset, count, folder):
    """Write <folder>/cam_000.png, cam_001.png, ... of the first `count` samples of a data set of mode val: the picture,
    and what speaks for the predicted class. Raises UserError where items are not (uint8 [3, H, W], class as int)."""
    from matplotlib.figure import Figure

    from .plots import save, short

    device = next(model.parameters()).device
    for index in range(min(count, len(dataset))):
        item = dataset[index]
        image, label = item
        if getattr(image, "dtype", None) != torch.uint8 or image.ndim != 3 or not isinstance(label, int):
            raise UserError(f"--cam={count}: {type(dataset).__name__} has no pictures with a class: leave --cam out")
        input, target = to_device(dataset.collate([item]), device)
        input, _ = dataset.prepare(input, target, generator=None)
        (map,) = class_activation_maps(model, input)
        with undisturbed(model), torch.no_grad():
            share, predicted = model.predict(input)[0].max(dim=0)
        figure = Figure(figsize=(7, 4), layout="compressed")
        for axes, shown in zip(figure.subplots(1, 2), (image, overlay(image, map)), strict=True):
            axes.imshow(shown.permute(1, 2, 0).numpy())
            axes.axis("off")
        true, name = short(dataset.classes[label]), short(dataset.classes[predicted])
        figure.suptitle(f"true {true}, predicted {name} {100 * share:.1f} %")
        save(figure, Path(folder) / f"cam_{index:03d}.png")
