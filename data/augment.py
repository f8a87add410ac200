"""What happens to a batch of pictures on the device: random crops, colours, mixtures, normalisation.

All functions take whole batches and wait for no GPU: nothing here asks for the value of a number that lies there.
Pictures are uint8 [N, 3, H, W] in channels_last memory, for which torch's resize is three times as fast on a CPU.
`uniform` are random numbers of [0, 1), float [k, N]: k of them for each picture. A box is int64 (top, left, height,
width), in pixels.
"""

import contextlib
import ctypes
import math
import os
from functools import lru_cache

import torch
from torch.nn import functional as F

from utils.iou_meter import UNLABELLED

# Of ImageNet's pictures, on a scale of 0 to 1; usual for every network that was, or may be, trained on them.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Augment:
    """Random changes of a training batch, as many as are asked for: what is 0 is left out.

    Args:
        image_size: height and width of what comes out, pixels.
        min_crop: smallest share of the picture's area that a random crop keeps.
        flip: probability of a horizontal flip.
        rotate: largest angle to either side, degrees.
        colour: brightness, contrast and saturation are each multiplied by 1 - colour to 1 + colour.
        noise: standard deviation of Gaussian noise, on a scale of 0 to 1.
        erase: probability that a random box is erased.
        mixup, cutmix: alphas of the Beta distributions that mixtures of two pictures are drawn from. With both, each
            picture has one of them, by a coin.
    """

    def __init__(
        self,
        image_size,
        min_crop=0.08,
        flip=0.5,
        rotate=0.0,
        colour=0.0,
        noise=0.0,
        erase=0.0,
        mixup=0.0,
        cutmix=0.0,
    ):
        self.image_size, self.min_crop, self.flip, self.rotate = image_size, min_crop, flip, rotate
        self.colour, self.noise, self.erase, self.mixup, self.cutmix = colour, noise, erase, mixup, cutmix

    def __call__(self, images, generator, masks=None):
        """uint8 [N, 3, H, W] -> normalised float32 [N, 3, image_size, image_size]; masks, uint8 [N, H, W] or None,
        go the same way to uint8 [N, image_size, image_size], 255 where there was no picture."""
        # In one go, and whatever the options are, so that none of them changes what the others draw.
        uniform = torch.rand(14, len(images), generator=generator, device=images.device)
        boxes = crop_boxes(uniform[:4], *images.shape[2:], self.min_crop)
        flip = uniform[4] < self.flip
        images = resized_crop(images, boxes, flip, self.image_size)
        masks = None if masks is None else nearest_crop(masks, boxes, flip, self.image_size)
        if self.rotate:
            degrees = self.rotate * (2 * uniform[5] - 1)
            images = rotate(images, degrees)
            masks = None if masks is None else rotate(masks[:, None], degrees, nearest=True)[:, 0]
        if self.colour:
            low = max(0.0, 1 - self.colour)
            images = jitter(images, *(low + (1 + self.colour - low) * uniform[6:9]))
        images = normalise(images)
        if self.noise:
            images = add_noise(images, self.noise, generator)
        if self.erase:
            images = erase(images, self.erase, uniform[9:])
        return images, masks

    def mix(self, images, target, classes, generator):
        """Each picture with the one before it: float [N, 3, H, W] and int64 [N] -> the same and float32 [N, classes],
        each class's share. Where neither mixup nor cutmix is asked for, what was given."""
        if not self.mixup and not self.cutmix:
            return images, target
        uniform = torch.rand(3, len(images), generator=generator, device=images.device)
        shares = []
        if self.mixup:
            shares.append(beta(self.mixup, len(images), generator, images.device).view(-1, 1, 1, 1))
        if self.cutmix:
            kept = beta(self.cutmix, len(images), generator, images.device)
            shares.append((~inside(cut_boxes(uniform[1:], kept, *images.shape[2:]), *images.shape[2:])).float())
        return mixed(images, target, classes, torch.where(uniform[0].view(-1, 1, 1, 1) < 0.5, shares[0], shares[-1]))


def crop_boxes(uniform, height, width, min_crop):
    """A random resized crop of each picture (Szegedy et al. 2014, arXiv:1409.4842): boxes [N, 4] of min_crop to 1 of
    the area, with a ratio of sides of 3/4 to 4/3; a side longer than the picture's is cut off. uniform: [4, N]."""
    return random_boxes(uniform, height, width, (min_crop, 1.0), (3 / 4, 4 / 3))


def random_boxes(uniform, height, width, area, ratio):
    """Boxes [N, 4] of a share of the area and of a ratio width / height in these ranges, the ratio's logarithm being
    uniform, cut off at the picture's size, and anywhere in it. uniform: [4, N]."""
    share = area[0] + (area[1] - area[0]) * uniform[0]
    stretch = (0.5 * math.log(ratio[0]) + 0.5 * math.log(ratio[1] / ratio[0]) * uniform[1]).exp()
    side = (share * (height * width)).sqrt()
    h, w = (side / stretch).round().clamp(1, height), (side * stretch).round().clamp(1, width)
    top, left = (uniform[2] * (height + 1 - h)).floor(), (uniform[3] * (width + 1 - w)).floor()
    return torch.stack([top, left, h, w], dim=1).long()


def resized_crop(images, boxes, flip, size):
    """Crop each picture, resize it bilinearly, without aliasing, and mirror it where `flip`, bool [N], says so: uint8
    [N, C, size, size], channels_last, on either way within 2 of torchvision's resized_crop."""
    if images.device.type == "cpu":
        return crop_one_by_one(images, boxes, flip, size)
    return crop_by_products(images, boxes, flip, size, torch.float16 if images.is_cuda else torch.float32)


def crop_one_by_one(images, boxes, flip, size):
    """resized_crop by torch's resize, the fastest on a CPU."""
    shape = len(images), images.shape[1], size, size
    out = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
    with one_thread():  # to wake the others for a single picture takes longer than the work
        for index, ((top, left, h, w), mirrored) in enumerate(zip(boxes.tolist(), flip.tolist(), strict=True)):
            part = images[index : index + 1, :, top : top + h, left : left + w]
            part = F.interpolate(part, (size, size), mode="bilinear", antialias=True)
            out[index] = part[0].flip(-1) if mirrored else part[0]
    return out


@contextlib.contextmanager
def one_thread():
    """What torch computes on the CPU in this block, it computes in the calling thread alone."""
    # OpenMP's own function: torch's also forgets what oneDNN has prepared, which costs the next step 3 ms.
    openmp = ctypes.CDLL(None) if os.name == "posix" else None
    set_number = getattr(openmp, "omp_set_num_threads", torch.set_num_threads)
    count = torch.get_num_threads()
    set_number(1)
    try:
        yield
    finally:
        set_number(count)


def crop_by_products(images, boxes, flip, size, dtype):
    """resized_crop by matrix products in `dtype`, the same work for every picture of the batch: for GPUs. Half
    precision is enough, since the sums have 11 bits where the result has 8."""
    n, channels, height, width = images.shape
    weights = triangles(boxes, max(height, width), size).to(dtype)
    rows, columns = weights[0, ..., :height], weights[1, ..., :width]  # [N, size, H], [N, size, W]
    columns = torch.where(flip.view(-1, 1, 1), columns.flip(1), columns)
    planes = images.to(dtype, memory_format=torch.contiguous_format).view(n, channels * height, width)
    planes = (planes @ columns.mT).view(n, channels, height, size)
    planes = rows.unsqueeze(1) @ planes  # [N, C, size, size]
    return planes.round_().clamp_(max=255).to(torch.uint8, memory_format=torch.channels_last)


def triangles(boxes, total, size):
    """What each of `total` pixels of a line counts in each of `size` that its part in the box is resized to: float32
    [2, N, size, total], for the columns' lines, which go down, and the rows'. A pixel counts the less the farther it is
    from the new one's centre, nothing from the distance of one pixel on, old or new, whichever is larger (a triangle
    filter)."""
    start, length = boxes.T.view(2, 2, -1, 1, 1)  # [2, N, 1, 1] each
    scale = length / size
    reach = scale.clamp(min=1)
    centre = (torch.arange(size, device=boxes.device).view(-1, 1) + 0.5) * (scale / reach)
    pixel = torch.arange(total, device=boxes.device) - (start - 0.5)  # its middle, from `start` on
    pixel = pixel.where((pixel > 0) & (pixel < length), math.inf) / reach  # others are infinitely far away
    weight = (1 - (pixel - centre).abs()).clamp(min=0)  # the one large tensor: few operations on it
    return weight / weight.sum(dim=3, keepdim=True)


def nearest_crop(masks, boxes, flip, size):
    """resized_crop of masks, uint8 [N, H, W] -> [N, size, size]: each pixel is the nearest, none is made up."""
    top, left, h, w = boxes.T.unsqueeze(2)  # [N, 1] each
    middle = torch.arange(size, device=masks.device) + 0.5
    y, x = top + (middle * (h / size)).long(), left + (middle * (w / size)).long()  # [N, size]
    x = torch.where(flip.unsqueeze(1), x.flip(1), x)
    return masks[torch.arange(len(masks), device=masks.device).view(-1, 1, 1), y.unsqueeze(2), x.unsqueeze(1)]


def rotate(images, degrees, nearest=False):
    """Turn each picture, uint8 [N, C, H, W], about its centre, counterclockwise by `degrees`, float [N]. Outside of it
    is 0; with nearest=True, for masks, 255."""
    height, width = images.shape[2:]
    outside = UNLABELLED if nearest else 0
    y = (torch.arange(height, device=images.device) + 0.5 - height / 2).view(1, -1, 1)
    x = (torch.arange(width, device=images.device) + 0.5 - width / 2).view(1, 1, -1)
    cos, sin = degrees.deg2rad().cos().view(-1, 1, 1), degrees.deg2rad().sin().view(-1, 1, 1)
    grid = torch.stack([(cos * x - sin * y) * (2 / width), (sin * x + cos * y) * (2 / height)], dim=3)
    mode = "nearest" if nearest else "bilinear"
    turned = F.grid_sample(images.float() - outside, grid, mode, padding_mode="zeros", align_corners=False) + outside
    return turned.round_().to(torch.uint8, memory_format=torch.channels_last)


def jitter(images, brightness, contrast, saturation):
    """Multiply each picture's, uint8 [N, 3, H, W], brightness, the distance of its pixels to its mean grey and then
    their distance to their own grey by factors, float [N] each."""
    brightness, contrast, saturation = (factor.view(-1, 1, 1, 1) for factor in (brightness, contrast, saturation))
    images = (images.float() * brightness).clamp_(max=255)
    images = torch.lerp(grey(images).mean(dim=(1, 2, 3), keepdim=True), images, contrast).clamp_(0, 255)
    return torch.lerp(grey(images), images, saturation).round_().clamp_(0, 255).byte()


def grey(images):
    """How bright pixels are: [N, 3, H, W] -> [N, 1, H, W], by ITU-R BT.601."""
    red, green, blue = images.split(1, dim=1)
    return 0.2989 * red + 0.587 * green + 0.114 * blue


def normalise(images):
    """uint8 [N, 3, H, W] -> float32, channels_last, each channel of ImageNet's mean 0 and standard deviation 1."""
    n, channels, height, width = images.shape
    factor, shift = line(images.device, width)
    # Whole lines are three times as fast as a factor per channel.
    rows = images.permute(0, 2, 3, 1).reshape(n, height, width * channels).float()
    rows = torch.addcmul(shift, rows, factor, out=rows)
    return rows.view(n, height, width, channels).permute(0, 3, 1, 2)


def denormalise(images):
    """What `normalise` was given, float on a scale of 0 to 1."""
    mean, std = statistics(images.device)
    return images * std + mean


@lru_cache(maxsize=16)
def line(device, width):
    """(factor, shift) of a line of `width` pixels, float32 [3 width] each. Made once: a copy to a GPU waits for it."""
    mean, std = (values.flatten().repeat(width) for values in statistics(device))
    return 1 / (255 * std), -mean / std


@lru_cache(maxsize=16)
def statistics(device):
    """MEAN and STD, float32 [3, 1, 1] each, on the device."""
    return tuple(torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1) for values in (MEAN, STD))


def add_noise(images, deviation, generator):
    """Add Gaussian noise to normalised pictures, in place; its deviation is on the scale of 0 to 1."""
    n, channels, height, width = images.shape
    noise = torch.randn(n, height, width, channels, generator=generator, device=images.device).permute(0, 3, 1, 2)
    return images.addcdiv_(noise, statistics(images.device)[1], value=deviation)


def erase(images, probability, uniform):
    """Random erasing (Zhong et al. 2017, arXiv:1708.04896), in place: a box of 0.02 to 0.33 of the area, with a ratio
    of sides of 0.3 to 3.3, becomes 0, the mean colour. images: float [N, 3, H, W], normalised; uniform: [5, N]."""
    height, width = images.shape[2:]
    boxes = random_boxes(uniform[:4], height, width, (0.02, 0.33), (0.3, 3.3))
    erased = inside(boxes, height, width) & (uniform[4] < probability).view(-1, 1, 1, 1)
    return images.masked_fill_(erased, 0.0)


def inside(boxes, height, width):
    """Boxes [N, 4] -> bool [N, 1, height, width], where they are."""
    top, left, h, w = boxes.T.view(4, -1, 1, 1, 1)
    y = torch.arange(height, device=boxes.device).view(-1, 1) - top
    x = torch.arange(width, device=boxes.device) - left
    return (y >= 0) & (y < h) & (x >= 0) & (x < w)


def beta(alpha, n, generator, device):
    """n numbers of the Beta distribution (alpha, alpha), float32."""
    shape, least = torch.full((n,), alpha, device=device), torch.finfo(torch.float32).tiny
    # What is too small for a float comes as the smallest there is. Two such numbers say nothing: then it is 1.
    a, b = (torch._standard_gamma(shape, generator=generator) - least for _ in range(2))
    return (a / (a + b)).nan_to_num(1.0)


def cut_boxes(uniform, kept, height, width):
    """The boxes [N, 4] that CutMix (Yun et al. 2019, arXiv:1905.04899) takes from the other picture: 1 - kept of the
    area, less where they reach over the edge. uniform: [2, N]; kept: [N]."""
    half = 0.5 * (1 - kept).sqrt()
    edges = []
    for position, total in zip(uniform, (height, width), strict=True):
        centre, reach = (position * total).long(), (half * total).long()
        edges.append(((centre - reach).clamp(min=0), (centre + reach).clamp(max=total)))
    (top, bottom), (left, right) = edges
    return torch.stack([top, left, bottom - top, right - left], dim=1)


def mixed(images, target, classes, share):
    """Of each picture `share`, [N, 1, 1, 1] or [N, 1, H, W], of the one before it the rest (mixup: Zhang et al. 2017,
    arXiv:1710.09412); the labels, int64 [N], become float32 [N, classes], in proportion to what is left of each."""
    labels = (target.unsqueeze(1) == torch.arange(classes, device=target.device)).float()
    kept = share.mean(dim=(1, 2, 3)).unsqueeze(1)
    before = torch.cat([images[-1:], images[:-1]])  # images.roll(1, 0) is no longer channels_last on a GPU
    return torch.lerp(before, images, share), torch.lerp(labels.roll(1, 0), labels, kept)
