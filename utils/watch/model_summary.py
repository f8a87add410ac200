"""How large a model is, and how much work one sample is."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn import functional as F

from utils import UserError
from utils.notices import counted
from utils.train.device import device_of, one_batch, undisturbed

SHOWN = 10  # names of classes


def summary(model: Any, input: Any) -> dict[str, int]:
    """{"parameters": n, "trainable": n, "flops": floating point operations of one prediction of `input`}.

    input: a prepared batch, whose size the operations grow with. A multiplication and an addition count as two
    operations; those of convolutions, matrix products and attention are counted, as in the literature.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with undisturbed(model), torch.no_grad(), plain_kernels(), FlopCounterMode(display=False) as counter:
        model.predict(input)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    trainable = sum(size for size, learns in sizes if learns)
    return {"parameters": sum(size for size, _ in sizes), "trainable": trainable, "flops": counter.get_total_flops()}


def print_summary(model: Any, train_data: Any, val_data: Any) -> None:
    """Print what is trained on, and the model's summary. Raises UserError when validation cannot compute its loss
    or its measures, because with mixup, say, training has other targets, or the model cannot take a size of training
    pictures: epochs would be trained first."""
    classes = list(train_data.classes)
    names = ", ".join(classes[:SHOWN]) + (", ..." if len(classes) > SHOWN else "")
    samples = f"{counted(len(train_data), 'sample')} to train on, {len(val_data)} to validate on"
    print(f"{type(train_data).__name__}: {samples}; {counted(len(classes), 'class', 'classes')}: {names}")
    (input, _), two = (one_batch(val_data, range(min(n, len(val_data))), device_of(model)) for n in (1, 2))
    try:
        if model.val_loss:  # of two: a model need not take a batch of one
            validate(model, val_data.meter(), *two)
        sizes = summary(model, input)
    except UserError:
        raise
    except Exception:  # the first step fails in the same way, and there the batch is named and --pdb opens
        print(f"{model.model_name}: its size cannot be measured")
        return
    for size in train_data.train_sizes:
        check_takes(model, input, size)
    trainable = f" ({sizes['trainable']:,} trainable)" if sizes["trainable"] < sizes["parameters"] else ""
    work = f"{with_prefix(sizes['flops'])}FLOPs for one sample"
    print(f"{model.model_name}: {sizes['parameters']:,} parameters{trainable}, {work}")


def check_takes(model: Any, input: Any, size: tuple[int, int]) -> None:
    """Raise UserError where the model does not take pictures of this (height, width), as vision transformers do not.
    input: a prepared batch of another size."""
    try:
        with undisturbed(model), torch.no_grad(), plain_kernels(), model.autocast():
            model.predict(F.interpolate(input, size))
    except Exception as error:  # a model may raise anything
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{model.model_name} takes no pictures of {size[1]}x{size[0]}, which --train-image-size has ({reason}): "
            "give others, or --train-image-size=None"
        ) from None


def validate(model: Any, meter: Any, input: Any, target: Any) -> None:
    """Compute the loss of a prepared batch, and add its predictions to a data set's meter, as validation does."""
    with undisturbed(model), torch.no_grad(), plain_kernels(), model.autocast():
        prediction = model.decode(model.objective(input, target)[0])
    meter.add(prediction, target)


def plain_kernels() -> AbstractContextManager[None]:
    """Within it a GPU does without cuDNN, which for every new shape chooses and compiles kernels: ten seconds of an
    SSD's start on an H100, for a single batch."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=False)
    return flags


def with_prefix(number: int) -> str:
    """7339000000 -> "7.3 G"."""
    power = min((len(str(number)) - 1) // 3, 4)
    return f"{number / 1000**power:.{1 if power else 0}f} {('', 'k', 'M', 'G', 'T')[power]}"
