"""A small sound training for the tests of `doctor`, and models that are broken in one way each."""

import torch
from torch import nn

import config
from data.base import BaseData
from models.basic_module import BasicModule
from utils.doctor.case import Case


class Pictures(BaseData):
    """Noise, reddish or bluish, as files would be read; `sizes` are what its files would have."""

    classes = ("red", "blue")

    def __init__(self, count, seed):
        random = torch.Generator().manual_seed(seed)
        self.pixels = torch.randint(0, 150, (count, 3, 16, 16), generator=random, dtype=torch.uint8)
        self.targets = [number % 2 for number in range(count)]
        for picture, label in zip(self.pixels, self.targets, strict=True):
            picture[2 * label] += 80
        self.smaller = {}

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return self.pixels[index], self.targets[index]

    def picture(self, index):
        side = self.smaller.get(index, 16)
        return self.pixels[index][:, :side, :side], str(index)

    def prepare(self, input, target, generator):
        return (input.float() - 110) / 55, target


class Net(BasicModule):
    """Three layers; a broken one changes `body`, `forward` or what it is built of."""

    def __init__(self, num_classes=2):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(8, 8, 3, 2), nn.ReLU()
        self.classifier = nn.Linear(8, num_classes)

    def body(self, x):
        x = self.relu(self.norm(self.conv(x)))
        return self.relu2(self.conv2(x)).mean(dim=(2, 3))

    def forward(self, x):
        return self.classifier(self.body(x))


def case(model=None, options=None, start=None):
    torch.manual_seed(0)
    usual = {"batch_size": 8, "lr": 0.001, "val_data_root": "x", **(options or {})}
    opt = config.load({name: str(value) for name, value in usual.items()}, command="doctor")
    return Case(opt, model or Net(), Pictures(24, 1), Pictures(12, 2), start)


def unsound(findings):
    return [one for one in findings if one.verdict != "OK"]


def assert_only(findings, name, verdict, found):
    (line,) = unsound(findings)
    assert (line.name, line.verdict) == (name, verdict) and line.found.startswith(found) and line.advice, line


class InAList(Net):
    def __init__(self):
        super().__init__()
        self.more = [nn.Linear(8, 8)]

    def body(self, x):
        return self.more[0](super().body(x))


class ParameterInADict(Net):
    def __init__(self):
        super().__init__()
        self.scale = {"a": nn.Parameter(torch.ones(8))}

    def body(self, x):
        return super().body(x) * self.scale["a"]


class NoBuffer(Net):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(8)

    def body(self, x):
        return super().body(x) - self.mean


class Double(Net):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def body(self, x):
        return super().body(x) * self.scale


class Elsewhere(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8, device="meta"))


class HoldsFrozen(Net):
    def __init__(self):
        super().__init__()
        self.conv.bias.requires_grad = False

    def get_optimizer(self, name, lr, weight_decay, momentum, **options):
        return torch.optim.SGD(self.parameters(), lr=lr)


class LacksHead(Net):
    def get_optimizer(self, name, lr, weight_decay, momentum, **options):
        return torch.optim.SGD([*self.conv.parameters(), *self.norm.parameters(), *self.conv2.parameters()], lr=lr)


class Unused(Net):
    def __init__(self):
        super().__init__()
        self.forgotten = nn.Linear(8, 2)


class CutOff(Net):
    def body(self, x):
        return super().body(x).detach()


class NormOfOne(Net):
    def __init__(self):
        super().__init__()
        self.late = nn.BatchNorm1d(8)

    def body(self, x):
        return self.late(super().body(x))


class Probable(Net):
    def forward(self, x):
        return super().forward(x).softmax(dim=1)


class Failing(Net):
    def forward(self, x):
        return self.classifier(self.body(x)[:, :4])


class FailsLater(Net):
    calls = 0

    def forward(self, x):
        FailsLater.calls += 1
        if FailsLater.calls > 25:
            raise RuntimeError("no such luck")
        return super().forward(x)


class Large(Net):
    def __init__(self):
        super().__init__()
        nn.init.normal_(self.conv2.weight, std=1e4)


class Log(Net):
    def body(self, x):
        return self.relu2(self.conv2(self.norm(self.conv(x)).log())).mean(dim=(2, 3))


class Root(Net):
    def body(self, x):
        return self.relu2(self.conv2(self.relu(self.norm(self.conv(x))).sqrt())).mean(dim=(2, 3))


class Deep(Net):
    def __init__(self):
        super().__init__()
        self.deep = nn.Sequential(*(part for _ in range(12) for part in (nn.Linear(8, 8), nn.Sigmoid())))

    def body(self, x):
        return self.deep(super().body(x))


class Dead(Net):
    def __init__(self):
        super().__init__()
        nn.init.constant_(self.conv2.bias, -100)


class Saturated(Net):
    def __init__(self):
        super().__init__()
        self.relu = nn.Tanh()
        nn.init.constant_(self.norm.weight, 100)


class LateLarge(Net):
    def __init__(self):
        super().__init__()
        nn.init.normal_(self.classifier.weight, std=40)


class Blind(Net):
    def body(self, x):
        return super().body(x) * 0
