"""The step of a GPU, followed on a machine without one: every operation on tensors that are nothing but a shape, a
dtype, a layout in memory and the device cuda. That tells where devices are mixed, where the host would wait for the
GPU, and where channels_last is lost.

The backward pass is left out, which is torch's own and needs a driver.
"""

import contextlib

import pytest
import torch
from coco_files import content, write
from conftest import draw_folder
from drawn import draw_shapes
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import models
from data import CocoMask, DogCat, MaskFolder
from data.pictures import augment
from data.pictures.images import ImagesInMemory
from utils.metrics.meters import LossMeter, TrainMeters
from utils.train import ema
from utils.train.device import to_device
from utils.train.processes import ALONE, World
from utils.train.step import TrainStep

GPU, SIDE, BATCH = torch.device("cuda", 0), 64, 8
CHANGES = {"rotate": 10.0, "color_jitter": 0.3, "noise": 0.1, "random_erasing": 0.3, "mixup": 0.2, "cutmix": 1.0}
TYPES = {"fp32": torch.float32, "fp16": torch.float16}  # not bf16: torch would ask cuDNN whether it has that


class NoWaiting(TorchDispatchMode):
    """Refuses copies between host and GPU that the host would wait for; FakeTensorMode refuses to tell a value."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            *_, source = (value for value in args if isinstance(value, torch.Tensor))
            lets_go = kwargs.get("non_blocking") or args[2:] == (True,)
            assert source.device.type == result.device.type or lets_go, "the host waits"
        return result


class Tasks(TorchDispatchMode):
    """Counts what the GPU is given to do: operations that make or change a tensor there, views left out."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.number += isinstance(result, torch.Tensor) and result.device == GPU and not function.is_view
        return result


@pytest.fixture
def imagined(monkeypatch):
    """A stack to enter FakeTensorMode in, where cuda computes nothing; nobody looks for a driver."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch, "_standard_gamma", lambda shape, generator: torch.empty_like(shape))  # the one unknown
    forget_constants()
    with contextlib.ExitStack() as stack:
        yield stack
    forget_constants()


def forget_constants():
    for remembered in (augment.per_row_stats, augment.statistics):
        remembered.cache_clear()


def built(name, data, precision="fp16"):
    """A model as main.py has it."""
    with GPU:
        model = getattr(models, name)(num_classes=len(data.classes))
    for parameter in model.parameters():
        if parameter.ndim == 4:  # model.to() cannot do this to such tensors
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    model.precision = precision
    return model


def drawn_for(name, mode, folder, **options):
    """Pictures, or pictures and masks, for a model."""
    if getattr(models, name).task == "segmentation":
        return MaskFolder([draw_shapes(folder / "set", 40)], mode, image_size=SIDE, **options)
    return DogCat([draw_folder(folder / "set", 20)], mode, image_size=SIDE, **options)


def cached(data):
    """The data set, its pictures in the GPU's memory."""
    data.images = ImagesInMemory(torch.empty(data.images.shape, dtype=torch.uint8, device=GPU))
    return data


def batch_of(data):
    """Some of its samples, prepared, as main.py does it."""
    batch = data.collate(data.__getitems__(list(range(BATCH))))
    return data.prepare(*to_device(batch, GPU), generator=None)


@pytest.mark.parametrize(
    "name, precision, options",
    [
        ("ResNet34", "fp32", CHANGES),
        ("ResNet34", "fp16", CHANGES),
        ("SqueezeNet", "fp16", CHANGES),
        ("AlexNet", "fp16", {}),
        ("FCN", "fp16", CHANGES),
        ("DeepLabV3", "fp16", CHANGES),
        ("ResNet34, the first of two processes", "fp32", {}),
    ],
)
def test_a_training_step_keeps_to_the_gpu_and_does_not_wait_for_it(
    name, precision, options, imagined, monkeypatch, tmp_path
):
    name, *several = name.split(",")
    data = drawn_for(name, "train", tmp_path, **options)
    imagined.enter_context(FakeTensorMode())
    model, meters = built(name, data, precision).train(), TrainMeters(cached(data).meter())
    world = World(size=2) if several else ALONE
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda flat: flat.device == GPU or pytest.fail("needs the CPU")
    )
    monkeypatch.setattr(World, "all_reduce_max", lambda self, number: number)
    monkeypatch.setattr(ema.copy, "deepcopy", lambda model: built(name, data))  # torch's own fails here
    optimizer, kinds = model.get_optimizer("Adam", 1e-3, 1e-4, 0.9), set()
    train_step = TrainStep(model, optimizer, world, precision, accumulate=2, clip_grad=1.0, ema=0.9)

    def backward(loss):
        assert loss.requires_grad and loss.device == GPU
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    def look(module, inputs, output):
        assert all(value.is_contiguous(memory_format=torch.channels_last) for value in (*inputs, output))
        kinds.add(output.dtype)

    def step():
        for input, target in train_step.micro_batches(*batch_of(data)):
            score, losses = train_step.objective(input, target)
            train_step.backward(losses, score)
        train_step.apply(0)
        meters.add(train_step)
        assert {value.device for value in (score, train_step.was_skipped, *train_step.buffers)} == {GPU}

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    step()  # constants and the optimizer's state are made once
    meters.scores.state_dict()
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(look)
    with NoWaiting():
        step()
        meters.scores.state_dict()
    assert meters.scores.counts.device == GPU
    assert kinds == {TYPES[precision]}


def test_pictures_are_few_tasks_for_the_gpu_beside_a_step_of_the_model(imagined, tmp_path):
    """Each takes the host some microseconds, which a fast GPU waits for: ResNet34's forward has 220, prepare had 80."""
    data = drawn_for("ResNet34", "train", tmp_path)
    imagined.enter_context(FakeTensorMode())
    meter = cached(data).meter()
    batch_of(data)
    with Tasks() as tasks:
        input, target = batch_of(data)
        meter.add(torch.empty(BATCH, 2, device=GPU), target)
    assert 40 < tasks.number <= 66


@pytest.mark.parametrize("name", ["ResNet34", "FCN", "DeepLabV3"])
def test_validation_keeps_to_the_gpu(name, imagined, tmp_path):
    data = drawn_for(name, "val", tmp_path)
    imagined.enter_context(FakeTensorMode())
    model, meter, loss_meter = built(name, data).eval(), cached(data).meter(), LossMeter()
    with torch.inference_mode(), model.autocast():
        input, target = batch_of(data)
        score, losses = model.objective(input, target)
        prediction = model.decode(score)
    meter.add(prediction, target)
    loss_meter.add(losses, samples=len(target))
    assert prediction.device == meter.state_dict()["counts"].device == GPU and prediction.dtype == torch.float32


def test_objects_are_flipped_on_the_gpu_without_waiting(imagined, tmp_path):
    data = CocoMask([write(tmp_path, content(BATCH))], "train", image_size=SIDE)
    items = [data[index] for index in range(len(data))]
    imagined.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
    with NoWaiting():
        images, target = data.prepare(*to_device(data.collate(items), GPU), generator=None)
    assert {value.device for one in target for value in one.values() if isinstance(value, torch.Tensor)} == {GPU}
    assert {image.device for image in images} == {GPU}


def test_what_would_wait_is_noticed(imagined):
    imagined.enter_context(FakeTensorMode())
    value = torch.zeros(3, device=GPU)
    for wait in (value.tolist, value.nonzero, value.sum().item):
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            wait()
    with pytest.raises(RuntimeError, match="device"):
        value + torch.zeros(3)
    with NoWaiting():
        value.to("cpu", non_blocking=True)
        value.copy_(torch.zeros(3), True)
        for wait in (value.cpu, lambda: torch.tensor([1.0]).to(GPU), lambda: value.copy_(torch.zeros(3))):
            with pytest.raises(AssertionError, match="waits"):
                wait()
