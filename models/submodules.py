"""Building blocks for models."""

import torch
from torch import nn


class ConvBNReLU(nn.Sequential):
    """Convolution, BatchNorm and ReLU: [N, in, H, W] -> [N, out, H, W]."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class Dropout(nn.Dropout):
    """nn.Dropout, whose mask takes an eighth of the time on a CPU. There torch draws a 64 bit number for each element,
    sequentially, which was a seventh of SqueezeNet's step. Here each element uses 8 bits; `p` is rounded to them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape, dense in memory."""
        kept = round(256 * (1 - self.p))
        if not self.training or x.device.type != "cpu" or kept in (0, 256):
            return super().forward(x)
        numbers = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None).view(torch.uint8)
        mask = (numbers[: x.numel()] < kept).to(x.dtype) * (256 / kept)
        return x * mask.as_strided(x.shape, x.stride())


class UpConv(nn.ConvTranspose2d):
    """Twice the resolution by a transposed convolution: [N, C, H, W] -> [N, C, 2H, 2W].

    It is initialized as bilinear interpolation of each channel (Long et al. 2014, arXiv:1411.4038, section 3.3).
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels, kernel_size=4, stride=2, padding=1, bias=False)
        slope = torch.tensor([0.25, 0.75, 0.75, 0.25])
        with torch.no_grad():
            self.weight.zero_()
            self.weight[range(channels), range(channels)] = torch.outer(slope, slope)
