"""Augmentation of a batch of pictures on the device: random crops, colours, mixtures, normalisation.

All functions take whole batches, and none waits for the GPU: nothing here reads a value from it. Pictures are uint8
[N, 3, H, W] in channels_last memory, for which torch's resize is three times as fast on a CPU. `uniform` are random
numbers in [0, 1), float [k, N]: k for each picture. A box is int64 (top, left, height, width), in pixels.
"""

import contextlib
import ctypes
import math
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from utils.metrics.iou_meter import UNLABELLED
from utils.options.kinds import height_width

# ImageNet's, on a scale of 0 to 1; usual for every network that was, or may be, trained on it.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Augment:
    """Random changes of a training batch; those set to 0 are left out.

    Args:
        image_size: side of the square that results, pixels; or "320x192", width x height.
        crop_min_scale: smallest share of the picture's area that a random crop keeps.
        flip: probability of a horizontal flip.
        rotate: largest angle to either side, degrees.
        color_jitter: brightness, contrast and saturation are each multiplied by 1 - color_jitter to 1 + color_jitter.
        noise: standard deviation of Gaussian noise, on a scale of 0 to 1.
        train_image_size: sizes of training pictures, each for an equal share of a training; none: image_size.
        random_erasing: probability that a random box is erased.
        mixup, cutmix: alphas of the Beta distributions from which mixtures of two pictures are drawn. With both, a coin
            picks one for each picture.
    """

    def __init__(
        self,
        image_size: int | str,
        crop_min_scale: float = 0.08,
        flip: float = 0.5,
        rotate: float = 0.0,
        color_jitter: float = 0.0,
        noise: float = 0.0,
        train_image_size: Sequence[int | str] = (),
        random_erasing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ):
        self.train_sizes = [height_width(size) for size in train_image_size]
        self.sizes = self.train_sizes or [height_width(image_size)]
        self.size, self.crop_min_scale, self.flip, self.rotate = self.sizes[0], crop_min_scale, flip, rotate
        self.color_jitter, self.noise, self.random_erasing = color_jitter, noise, random_erasing
        self.mixup, self.cutmix = mixup, cutmix

    def begin_epoch(self, done: float) -> None:
        """From now on make the size for this share of the training, 0 to 1."""
        self.size = self.sizes[min(int(done * len(self.sizes)), len(self.sizes) - 1)]

    def __call__(self, images: Tensor, generator: Generator | None, masks: Tensor | None = None) -> tuple[Tensor, Any]:
        """uint8 [N, 3, H, W] -> normalised float32 [N, 3, h, w] of `size`; masks, uint8 [N, H, W] or None, change
        with them to uint8 [N, h, w], 255 outside the picture."""
        # All at once and for any options, so that no option changes what the others draw.
        uniform = torch.rand(14, len(images), generator=generator, device=images.device)
        boxes = crop_boxes(uniform[:4], *images.shape[2:], self.crop_min_scale, self.size[1] / self.size[0])
        flip = uniform[4] < self.flip
        images = resized_crop(images, boxes, flip, self.size)
        masks = None if masks is None else nearest_crop(masks, boxes, flip, self.size)
        if self.rotate:
            degrees = self.rotate * (2 * uniform[5] - 1)
            images = rotate(images, degrees)
            masks = None if masks is None else rotate(masks[:, None], degrees, nearest=True)[:, 0]
        if self.color_jitter:
            low = max(0.0, 1 - self.color_jitter)
            images = jitter(images, *(low + (1 + self.color_jitter - low) * uniform[6:9]))
        images = normalise(images)
        if self.noise:
            images = add_noise(images, self.noise, generator)
        if self.random_erasing:
            images = erase(images, self.random_erasing, uniform[9:])
        return images, masks

    def mix(self, images: Tensor, target: Tensor, classes: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """A share of each picture plus the rest of the one before it (mixup: Zhang et al. 2017, arXiv:1710.09412):
        float [N, 3, H, W] and int64 [N] -> the same and float32 [N, classes], the labels in the same proportion.
        Without mixup and cutmix both are returned unchanged."""
        if not self.mixup and not self.cutmix:
            return images, target
        uniform = torch.rand(3, len(images), generator=generator, device=images.device)
        shares = []
        if self.mixup:
            shares.append(beta(self.mixup, len(images), generator, images.device).view(-1, 1, 1, 1))
        if self.cutmix:
            kept = beta(self.cutmix, len(images), generator, images.device)
            shares.append((~inside(cut_boxes(uniform[1:], kept, *images.shape[2:]), *images.shape[2:])).float())
        share = torch.where(uniform[0].view(-1, 1, 1, 1) < 0.5, shares[0], shares[-1])  # [N, 1, 1, 1] or [N, 1, H, W]
        labels = (target.unsqueeze(1) == torch.arange(classes, device=target.device)).float()
        before = torch.cat([images[-1:], images[:-1]])  # images.roll(1, 0) is no longer channels_last on a GPU
        part = share.mean(dim=(1, 2, 3)).unsqueeze(1)
        return torch.lerp(before, images, share), torch.lerp(labels.roll(1, 0), labels, part)


def crop_boxes(uniform: Tensor, height: int, width: int, crop_min_scale: float, ratio: float = 1.0) -> Tensor:
    """A random resized crop of each picture (Szegedy et al. 2014, arXiv:1409.4842): boxes [N, 4] of crop_min_scale to 1
    of the area, with an aspect ratio of 3/4 to 4/3 times `ratio`, the result's; a side longer than the picture's is cut
    off. uniform: [4, N]."""
    return random_boxes(uniform, height, width, (crop_min_scale, 1.0), (3 / 4 * ratio, 4 / 3 * ratio))


def random_boxes(
    uniform: Tensor, height: int, width: int, area: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """Boxes [N, 4] with a share of the area and a ratio width / height (log-uniform) in these ranges, cut off at the
    picture's size, at a random place in it. uniform: [4, N]."""
    share = area[0] + (area[1] - area[0]) * uniform[0]
    stretch = (0.5 * math.log(ratio[0]) + 0.5 * math.log(ratio[1] / ratio[0]) * uniform[1]).exp()
    side = (share * (height * width)).sqrt()
    h, w = (side / stretch).round().clamp(1, height), (side * stretch).round().clamp(1, width)
    top, left = (uniform[2] * (height + 1 - h)).floor(), (uniform[3] * (width + 1 - w)).floor()
    return torch.stack([top, left, h, w], dim=1).long()


def resized_crop(images: Tensor, boxes: Tensor, flip: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop each picture, resize it (bilinear, antialiased) and flip it where `flip`, bool [N], is true: uint8
    [N, C, *size], channels_last, on CPU and GPU within 2 of torchvision's resized_crop."""
    if images.device.type == "cpu":
        return crop_one_by_one(images, boxes, flip, size)
    return crop_by_products(images, boxes, flip, size, torch.float16 if images.is_cuda else torch.float32)


def crop_one_by_one(images: Tensor, boxes: Tensor, flip: Tensor, size: tuple[int, int]) -> Tensor:
    """resized_crop by torch's resize, the fastest on a CPU."""
    out = torch.empty(len(images), images.shape[1], *size, dtype=torch.uint8, memory_format=torch.channels_last)
    with one_thread():  # waking the others for a single picture takes longer than the work
        for index, ((top, left, h, w), mirrored) in enumerate(zip(boxes.tolist(), flip.tolist(), strict=True)):
            part = images[index : index + 1, :, top : top + h, left : left + w]
            part = F.interpolate(part, size, mode="bilinear", antialias=True)
            out[index] = part[0].flip(-1) if mirrored else part[0]
    return out


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within the block torch computes on the CPU only in the calling thread."""
    # OpenMP's own function: torch's also drops what oneDNN has prepared, which costs the next step 3 ms.
    openmp = ctypes.CDLL(None) if os.name == "posix" else None
    set_number = getattr(openmp, "omp_set_num_threads", torch.set_num_threads)
    count = torch.get_num_threads()
    set_number(1)
    try:
        yield
    finally:
        set_number(count)


def crop_by_products(images: Tensor, boxes: Tensor, flip: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """resized_crop by matrix products in `dtype`, for GPUs: the work is the same for every picture. Half precision is
    enough, since the sums have 11 bits and the result 8."""
    n, channels, height, width = images.shape
    weights = resize_weights(boxes, max(height, width), size).to(dtype)
    rows, columns = weights[0, :, : size[0], :height], weights[1, :, : size[1], :width]  # [N, h, H], [N, w, W]
    columns = torch.where(flip.view(-1, 1, 1), columns.flip(1), columns)
    planes = images.to(dtype, memory_format=torch.contiguous_format).view(n, channels * height, width)
    planes = (planes @ columns.mT).view(n, channels, height, size[1])
    planes = rows.unsqueeze(1) @ planes  # [N, C, h, w]
    return planes.round_().clamp_(max=255).to(torch.uint8, memory_format=torch.channels_last)


def resize_weights(boxes: Tensor, total: int, size: tuple[int, int]) -> Tensor:
    """How much each of a line's `total` pixels counts in each of the size[0] or size[1] pixels to which its part in the
    box is resized: float32 [2, N, max(size), total], first for columns, then for rows; both at once, because a GPU
    waits for each small task. The weight falls linearly with the distance to the new pixel's centre, to 0 at one pixel,
    old or new, whichever is larger (a triangle filter)."""
    start, length = boxes.T.view(2, 2, -1, 1, 1)  # [2, N, 1, 1] each
    scale = torch.stack([one / side for one, side in zip(length, size, strict=True)])
    reach = scale.clamp(min=1)
    centre = (torch.arange(max(size), device=boxes.device).view(-1, 1) + 0.5) * (scale / reach)
    pixel = torch.arange(total, device=boxes.device) - (start - 0.5)  # its centre, relative to `start`
    pixel = pixel.where((pixel > 0) & (pixel < length), math.inf) / reach  # others are infinitely far away
    weight = (1 - (pixel - centre).abs()).clamp(min=0)  # the one large tensor: few operations on it
    return weight / weight.sum(dim=3, keepdim=True)


def nearest_crop(masks: Tensor, boxes: Tensor, flip: Tensor, size: tuple[int, int]) -> Tensor:
    """resized_crop of masks, uint8 [N, H, W] -> [N, *size], by the nearest pixel: classes are never mixed."""
    top, left, h, w = boxes.T.unsqueeze(2)  # [N, 1] each
    down, along = (torch.arange(side, device=masks.device) + 0.5 for side in size)
    y, x = top + (down * (h / size[0])).long(), left + (along * (w / size[1])).long()  # [N, height], [N, width]
    x = torch.where(flip.unsqueeze(1), x.flip(1), x)
    return masks[torch.arange(len(masks), device=masks.device).view(-1, 1, 1), y.unsqueeze(2), x.unsqueeze(1)]


def rotate(images: Tensor, degrees: Tensor, nearest: bool = False) -> Tensor:
    """Rotate each picture, uint8 [N, C, H, W], about its centre, counterclockwise by `degrees`, float [N]. Outside
    it is 0; with nearest=True, for masks, 255."""
    height, width = images.shape[2:]
    outside = UNLABELLED if nearest else 0
    y = (torch.arange(height, device=images.device) + 0.5 - height / 2).view(1, -1, 1)
    x = (torch.arange(width, device=images.device) + 0.5 - width / 2).view(1, 1, -1)
    cos, sin = degrees.deg2rad().cos().view(-1, 1, 1), degrees.deg2rad().sin().view(-1, 1, 1)
    grid = torch.stack([(cos * x - sin * y) * (2 / width), (sin * x + cos * y) * (2 / height)], dim=3)
    mode = "nearest" if nearest else "bilinear"
    turned = F.grid_sample(images.float() - outside, grid, mode, padding_mode="zeros", align_corners=False) + outside
    return turned.round_().to(torch.uint8, memory_format=torch.channels_last)


def jitter(images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Multiply the brightness, contrast and saturation of each picture, uint8 [N, 3, H, W], by these factors,
    float [N]. Contrast is the pixels' distance to the picture's mean grey, saturation that to their own grey."""
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in (brightness, contrast, saturation))
    images = (images.float() * brightness).clamp_(max=255)
    images = torch.lerp(grey(images).mean(dim=(1, 2, 3), keepdim=True), images, contrast).clamp_(0, 255)
    return torch.lerp(grey(images), images, saturation).round_().clamp_(0, 255).byte()


def grey(images: Tensor) -> Tensor:
    """The pixels' brightness: [N, 3, H, W] -> [N, 1, H, W], by ITU-R BT.601."""
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def normalise(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> float32, channels_last; over ImageNet each channel has mean 0 and standard deviation 1."""
    n, channels, height, width = images.shape
    factor, shift = per_row_stats(images.device, width)
    # Whole rows are three times as fast as a factor per channel.
    rows = images.permute(0, 2, 3, 1).reshape(n, height, width * channels).float()
    rows = torch.addcmul(shift, rows, factor, out=rows)
    return rows.view(n, height, width, channels).permute(0, 3, 1, 2)


def denormalise(images: Tensor) -> Tensor:
    """The inverse of `normalise`, as float on a scale of 0 to 1."""
    mean, std = statistics(images.device)
    return images * std + mean


@lru_cache(maxsize=16)
def per_row_stats(device: torch.device, width: int) -> tuple[Tensor, Tensor]:
    """(factor, shift) of a row of `width` pixels, float32 [3 width] each. Cached: a copy to a GPU waits for it."""
    mean, std = (values.flatten().repeat(width) for values in statistics(device))
    return 1 / (255 * std), -mean / std


@lru_cache(maxsize=16)
def statistics(device: torch.device) -> tuple[Tensor, ...]:
    """MEAN and STD, float32 [3, 1, 1] each, on the device."""
    return tuple(torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1) for values in (MEAN, STD))


def add_noise(images: Tensor, deviation: float, generator: Generator | None) -> Tensor:
    """Add Gaussian noise to normalised pictures, in place; its standard deviation is on the scale of 0 to 1."""
    n, channels, height, width = images.shape
    noise = torch.randn(n, height, width, channels, generator=generator, device=images.device).permute(0, 3, 1, 2)
    return images.addcdiv_(noise, statistics(images.device)[1], value=deviation)


def erase(images: Tensor, probability: float, uniform: Tensor) -> Tensor:
    """Random erasing (Zhong et al. 2017, arXiv:1708.04896), in place: a box of 0.02 to 0.33 of the area, with an aspect
    ratio of 0.3 to 3.3, becomes 0, the mean colour. images: float [N, 3, H, W], normalised; uniform: [5, N]."""
    height, width = images.shape[2:]
    boxes = random_boxes(uniform[:4], height, width, (0.02, 0.33), (0.3, 3.3))
    erased = inside(boxes, height, width) & (uniform[4] < probability).view(-1, 1, 1, 1)
    return images.masked_fill_(erased, 0.0)


def inside(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes [N, 4] -> bool [N, 1, height, width], true inside them."""
    top, left, h, w = boxes.T.view(4, -1, 1, 1, 1)
    y = torch.arange(height, device=boxes.device).view(-1, 1) - top
    x = torch.arange(width, device=boxes.device) - left
    return (y >= 0) & (y < h) & (x >= 0) & (x < w)


def beta(alpha: float, n: int, generator: Generator | None, device: torch.device) -> Tensor:
    """n numbers of the Beta distribution (alpha, alpha), float32."""
    shape, least = torch.full((n,), alpha, device=device), torch.finfo(torch.float32).tiny
    # A number too small for a float is drawn as the smallest float. Of two such numbers the result is 1.
    a, b = (torch._standard_gamma(shape, generator=generator) - least for _ in range(2))
    return (a / (a + b)).nan_to_num(1.0)


def cut_boxes(uniform: Tensor, kept: Tensor, height: int, width: int) -> Tensor:
    """The boxes [N, 4] that CutMix (Yun et al. 2019, arXiv:1905.04899) takes from the other picture: 1 - kept of the
    area, less where they cross the edge. uniform: [2, N]; kept: [N]."""
    half = 0.5 * (1 - kept).sqrt()
    edges = []
    for position, total in zip(uniform, (height, width), strict=True):
        centre, reach = (position * total).long(), (half * total).long()
        edges.append(((centre - reach).clamp(min=0), (centre + reach).clamp(max=total)))
    (top, bottom), (left, right) = edges
    return torch.stack([top, left, bottom - top, right - left], dim=1)
