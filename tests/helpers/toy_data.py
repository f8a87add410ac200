"""Data sets of a few tensors, for tests that need no files."""

import torch

from data.base import BaseData
from data.heart import ThresholdMeter
from utils.metrics.meters import ConfusionMeter


class Squares(BaseData):
    """Pictures with a bright square on the left, or on the right."""

    classes = ("left", "right")

    def __len__(self):
        return 6

    def __getitem__(self, index):
        picture = torch.zeros(3, 64, 64, dtype=torch.uint8)
        picture[:, 24:40, 40 * (index % 2) : 40 * (index % 2) + 16] = 255
        return picture, index % 2

    def prepare(self, input, target, generator):
        return input.float() / 255, target

    def meter(self):
        return ConfusionMeter(self.classes)


class Points(Squares):
    def __getitem__(self, index):
        return torch.zeros(1, 2), torch.zeros(1)

    def prepare(self, input, target, generator):
        return input, target

    def meter(self):
        return ThresholdMeter(self.classes)
