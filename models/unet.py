"""U-Net for segmentation (Ronneberger et al. 2015, arXiv:1505.04597), with BatchNorm and padded convolutions."""

import torch
from torch import nn
from torch.nn import functional as F

from .basic_module import BasicModule
from .submodules import ConvBNReLU

CHANNELS = 64, 128, 256, 512, 1024  # the paper's, from the full resolution down to a sixteenth


class UNet(BasicModule):
    """Images [N, 3, H, W] of any size -> scores [N, C, H, W]. It learns from scratch, from few pictures.

    Args:
        num_classes: C.
        width: factor on the numbers of channels: 1 is the paper's network of 31 million parameters, 0.25 a sixteenth.
    """

    task = "segmentation"
    head = "scores"

    def __init__(self, num_classes: int = 2, width: float = 1.0):
        super().__init__()
        sizes = [max(1, round(width * size)) for size in CHANNELS]
        self.downs = nn.ModuleList(two_convolutions(low, high) for low, high in zip([3, *sizes], sizes))  # noqa: B905
        pairs = list(zip(sizes[:0:-1], sizes[-2::-1], strict=True))  # (1024, 512), (512, 256), ...
        self.ups = nn.ModuleList(nn.ConvTranspose2d(high, low, kernel_size=2, stride=2) for high, low in pairs)
        self.joins = nn.ModuleList(two_convolutions(2 * low, low) for _, low in pairs)
        self.scores = nn.Conv2d(sizes[0], num_classes, kernel_size=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, C, H, W]"""
        skips: list[torch.Tensor] = []
        for down in self.downs:
            x = down(F.max_pool2d(x, 2, ceil_mode=True) if skips else x)
            skips.append(x)
        for up, join, skip in zip(self.ups, self.joins, skips[-2::-1], strict=True):
            height, width = skip.shape[2:]
            x = join(torch.cat([skip, up(x)[:, :, :height, :width]], dim=1))  # twice a side rounded up may be 1 more
        return self.scores(x)


def two_convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    """[N, in, H, W] -> [N, out, H, W]"""
    return nn.Sequential(ConvBNReLU(in_channels, out_channels), ConvBNReLU(out_channels, out_channels))
