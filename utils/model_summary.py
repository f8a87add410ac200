"""How large a model is, and how much work one sample is."""

from contextlib import contextmanager

import torch

from .events import Callback
from .loader import to_device

SHOWN = 10  # names of classes
MEASURED = 8  # samples whose memory is measured: more of them take proportionally more


@contextmanager
def undisturbed(model):
    """Within the block the model is in eval mode and computes normal tensors, whatever is around it; afterwards its
    mode, part by part, and the random generators are as they were."""
    training = {module: module.training for module in model.modules()}
    devices = {parameter.device.index for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(sorted(devices)), torch.inference_mode(False):
        model.eval()
        try:
            yield
        finally:
            for module, mode in training.items():
                module.training = mode


def summary(model, input):
    """{"parameters": n, "trainable": n, "flops": floating point operations of one prediction of `input`}.

    input: a prepared batch, whose size the operations grow with. A multiplication and an addition count as two
    operations; those of convolutions, matrix products and attention are counted, as in the literature.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with undisturbed(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.predict(input)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    trainable = sum(size for size, learns in sizes if learns)
    return {"parameters": sum(size for size, _ in sizes), "trainable": trainable, "flops": counter.get_total_flops()}


def largest_batch(model, dataset, batch_size):
    """How many samples to validate at once: on a GPU as many as a quarter of its free memory holds, 2, 4 or 8 times
    batch_size; on a CPU batch_size: there eight times as many are a tenth faster at best (benchmarks/val_batch.py)."""
    device, size = next(model.parameters()).device, min(batch_size, len(dataset), MEASURED)
    if device.type != "cuda" or not size:
        return batch_size
    with undisturbed(model), torch.no_grad():
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        batch = to_device(dataset.collate([dataset[index] for index in range(size)]), device)
        input, _ = dataset.prepare(*batch, generator=None)
        with model.autocast():
            model.predict(input)
        each = (torch.cuda.max_memory_allocated(device) - before) / size
    room = torch.cuda.mem_get_info(device)[0] / 4
    return batch_size * max(times for times in (1, 2, 4, 8) if times == 1 or times * batch_size * each <= room)


class ModelSummary(Callback):
    """Prints what is trained on, and the model's summary, when a training begins."""

    def __init__(self, model, train_data, val_data):
        self.model, self.train_data, self.dataset = model, train_data, val_data

    def on_train_begin(self):
        classes = list(self.train_data.classes)
        names = ", ".join(classes[:SHOWN]) + (", ..." if len(classes) > SHOWN else "")
        samples = f"{len(self.train_data)} samples to train on, {len(self.dataset)} to validate on"
        print(f"{type(self.train_data).__name__}: {samples}; {len(classes)} classes: {names}")
        device = next(self.model.parameters()).device
        input, target = to_device(self.dataset.collate([self.dataset[0]]), device)
        input, _ = self.dataset.prepare(input, target, generator=None)
        sizes = summary(self.model, input)
        trainable = f" ({sizes['trainable']:,} trainable)" if sizes["trainable"] < sizes["parameters"] else ""
        work = f"{with_prefix(sizes['flops'])}FLOPs for one sample"
        print(f"{self.model.model_name}: {sizes['parameters']:,} parameters{trainable}, {work}")


def with_prefix(number):
    """7339000000 -> "7.3 G"."""
    power = min((len(str(number)) - 1) // 3, 4)
    return f"{number / 1000**power:.{1 if power else 0}f} {('', 'k', 'M', 'G', 'T')[power]}"
