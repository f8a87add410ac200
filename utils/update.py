"""One step of the optimizer: in which precision, in how many parts, and not at all where a number is not finite."""

import math
import time

import torch
from torch import nn

from . import UserError

SEARCH = 16  # steps in a row that fp16 may skip to find its scale, which begins at 2 ** 16, without a word
BLOCK = 64  # steps whose numbers wait on the device before they are fetched in one go


class Update:
    """What happens between a prepared batch and the changed weights, without waiting for the device.

        for input, target in update.parts(*batch):
            score, losses = model.objective(input, target)
            loss = update.backward(losses)
        update.step(number)

    Where a gradient is not finite the step leaves no trace: neither in the weights nor in the optimizer's state, nor in
    BatchNorm's statistics. The device decides that by itself; `skipped` tells later.

    Args:
        module: the model, whose trainable parameters `optim` has; on its device already.
        optim: the optimizer, a fused one of torch.optim; for any other the device has to be waited for.
        precision: fp32, bf16 or fp16; with fp16 the loss is scaled, so that small gradients do not become 0
            (Micikevicius et al. 2018, arXiv:1710.03740).
        accumulate: a batch goes through the model in so many parts, one after another, whose gradients add up.
        clip_grad: the gradients' norm over all parameters is cut down to this; 0: it is not.
    """

    def __init__(self, module, optim, precision="fp32", accumulate=1, clip_grad=0.0):
        self.optimizer, self.accumulate, self.clip_grad = optim, accumulate, clip_grad
        self.parameters = [parameter for group in optim.param_groups for parameter in group["params"]]
        device = self.parameters[0].device.type
        # Where nothing needs scaling the factor is always 1, and the scaler only looks for what is not finite.
        self.fixed = None if precision == "fp16" else 1.0
        self.scaler = torch.amp.GradScaler(device, init_scale=self.fixed or 2.0**16)
        self.buffers = share_memory(module.buffers())
        self.kept = [buffer.clone() for buffer in self.buffers]
        self.waiting, self.names, self.bad, self.row = [], [], [], 0

    def parts(self, input, target):
        """Forget the old gradients and yield the batch in parts, (input, target) each, as equal as they can be and of
        two samples at least."""
        self.optimizer.zero_grad()
        for kept, buffer in zip(self.kept, self.buffers, strict=True):
            kept.copy_(buffer)
        self.losses = {}
        count = max(1, min(self.accumulate, len(input) // 2))  # BatchNorm cannot learn from a single sample
        ends = [len(input) * part // count for part in range(count + 1)]
        for start, end in zip(ends, ends[1:], strict=False):
            self.share = (end - start) / len(input)
            yield input[start:end], target[start:end]

    def backward(self, losses):
        """Add the gradients of one part's {name: scalar} and return their sum."""
        loss = sum(losses.values())
        self.scaler.scale(loss * self.share).backward()
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value.detach().float() * self.share
        return loss

    def step(self, number):
        """Change the weights; `number` is that of the step."""
        self.scaler.unscale_(self.optimizer)
        (bad,) = self.scaler._found_inf_per_device(self.optimizer).values()  # there is no public way to ask
        bad.copy_((bad > 0) | ~sum(self.losses.values()).isfinite())  # a loss can be nan where its gradients are not
        if self.clip_grad:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update(self.fixed)
        for kept, buffer in zip(self.kept, self.buffers, strict=True):
            torch.where(bad > 0, kept, buffer, out=buffer)
        if len(self.waiting) == BLOCK or self.names != [*self.losses]:
            self._fetch()
        self.names = [*self.losses]
        self.waiting.append((number, torch.stack([bad, *self.losses.values()])))

    def skipped(self):
        """(number of the step, {name: loss}) of every step without effect since this was asked last."""
        self._fetch()
        bad, self.bad = self.bad, []
        return bad

    def state_dict(self):
        """The scale of fp16 and what it hangs on."""
        return self.scaler.state_dict()

    def load_state_dict(self, state):
        """Go on from a state_dict()."""
        self.scaler.load_state_dict(state)

    def _fetch(self):
        rows = torch.stack([values for _, values in self.waiting]).tolist() if self.waiting else ()
        for (number, _), (bad, *losses) in zip(self.waiting, rows, strict=True):
            self.row = self.row + 1 if bad else 0
            searching = self.fixed is None and math.isfinite(sum(losses)) and self.row <= SEARCH
            if bad and not searching:
                self.bad.append((number, dict(zip(self.names, losses, strict=True))))
        self.waiting = []


def share_memory(buffers):
    """Flat tensors, one for each dtype, whose pieces the buffers are from now on, so that few operations reach all."""
    kinds = {}
    for buffer in buffers:
        kinds.setdefault(buffer.dtype, []).append(buffer)
    for kind, group in kinds.items():
        kinds[kind] = torch.cat([buffer.flatten() for buffer in group])
        for buffer, piece in zip(group, kinds[kind].split([buffer.numel() for buffer in group]), strict=True):
            buffer.data = piece.view_as(buffer)
    return list(kinds.values())


def pick_precision(wanted, device):
    """fp32, bf16 or fp16: what was wanted, or for "auto" what this device computes fastest and training bears."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability(device) >= (7, 0) else "fp32"
    known = torch.cpu.get_capabilities()
    return "bf16" if known.get("avx512_bf16") or known.get("amx_bf16") else "fp32"


def compiled(function):
    """torch.compile(function), which says how long its first call took, the one that compiles.

    Raises UserError when it cannot be compiled here.
    """
    fast, begin = torch.compile(function), []

    def call(*arguments):
        if begin:
            return fast(*arguments)
        begin.append(time.perf_counter())
        try:
            result = fast(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = next(line for line in str(error).splitlines() if line.strip())
            raise UserError(f"--compile fails here, torch's compiler says: {reason}; leave it out") from None
        print(f"compiled, and the first step computed, in {time.perf_counter() - begin[0]:.1f} s")
        return result

    return call
