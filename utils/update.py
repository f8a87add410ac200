"""One step of the optimizer, all or nothing: in which precision, in how many parts, and not at all where a number is
not finite."""

import contextlib
import math
import sys
import time

import torch
from torch import nn
from tqdm import tqdm

from . import UserError
from .device import give_back, out_of_memory
from .distributed import ALONE

SEARCH = 16  # steps in a row that fp16 may skip to find its scale, which begins at 2 ** 16, without a word
BLOCK = 64  # steps whose numbers wait on the device before they are fetched in one go


class Update:
    """What happens between a prepared batch and the changed weights, without waiting for the device.

        for input, target in update.parts(*batch):
            with update.attempt():
                score, losses = model.objective(input, target)
                loss = update.backward(losses, score, target)
        update.step(number)
        update.report(loss_meter, train_meter)

    Where a gradient is not finite the step leaves no trace: neither in the weights nor in the optimizer's state, nor in
    BatchNorm's statistics. The device decides that by itself; `skipped` tells later.

    Where the memory is too small for a part, `attempt` ends it and `parts` begins the batch anew with smaller ones, for
    the rest of the run: the step is the one that --accumulate would have made of the same samples.

    Args:
        module: the model, whose trainable parameters `optim` has; on its device already.
        optim: the optimizer, a fused one of torch.optim; for any other the device has to be waited for.
        precision: fp32, bf16 or fp16; with fp16 the loss is scaled, so that small gradients do not become 0
            (Micikevicius et al. 2018, arXiv:1710.03740).
        accumulate: a batch goes through the model in so many parts, one after another, whose gradients add up.
        clip_grad: the gradients' norm over all parameters is cut down to this; 0: it is not.
        world: the World, whose processes each have their share of a batch: the step is that of all of it.

    Attributes:
        void: scalar tensor, 1 where the last step had no effect, else 0.
    """

    def __init__(self, module, optim, precision="fp32", accumulate=1, clip_grad=0.0, world=ALONE):
        self.optimizer, self.accumulate, self.clip_grad, self.world = optim, accumulate, clip_grad, world
        self.parameters = [parameter for group in optim.param_groups for parameter in group["params"]]
        device = self.parameters[0].device.type
        # Where nothing needs scaling the factor is always 1, and the scaler only looks for what is not finite.
        self.fixed = None if precision == "fp16" else 1.0
        self.scaler = torch.amp.GradScaler(device, init_scale=self.fixed or 2.0**16)
        self.buffers = share_memory(module.buffers())
        self.kept = [buffer.clone() for buffer in self.buffers]
        self.waiting, self.names, self.bad, self.row = [], [], [], 0
        self.unfinished, self.exhausted = False, ""

    def parts(self, input, target):
        """Yield the batch in parts, (input, target) each, as equal as they can be and of two samples at least; all of
        it anew, in smaller ones, where memory ran out.

        Raises UserError where there are no smaller ones.
        """
        for kept, buffer in zip(self.kept, self.buffers, strict=True):
            kept.copy_(buffer)
        size = self.size = len(input)
        while True:
            self.optimizer.zero_grad()
            self.losses, self.outputs, self.unfinished = {}, [], True
            count = max(1, min(self.accumulate, size // 2))  # BatchNorm cannot learn from a single sample
            ends = [size * part // count for part in range(count + 1)]
            for start, end in zip(ends, ends[1:], strict=False):
                self.share = (end - start) / size
                yield input[start:end], target[start:end]
                if self.exhausted:
                    self._shrink(size, count)
                    break
            else:
                return

    @contextlib.contextmanager
    def attempt(self):
        """The block computes a part; running out of memory ends it, and nothing else."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self.exhausted = repr(error)  # the rest is for `parts`: here the error still holds what filled the memory

    def backward(self, losses, score, target):
        """Add the gradients of one part's {name: scalar} and return their sum. Score and target are for `report`."""
        loss = sum(losses.values())
        self.scaler.scale(loss * self.share).backward()
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value.detach().float() * self.share
        score = score.detach() if isinstance(score, torch.Tensor) else score  # its graph may hold on to activations
        self.outputs.append((score, target))
        return loss.detach()

    def step(self, number):
        """Change the weights; `number` is that of the step."""
        if self.world.size > 1:
            self._put_together()
        self.scaler.unscale_(self.optimizer)
        (bad,) = self.scaler._found_inf_per_device(self.optimizer).values()  # there is no public way to ask
        bad.copy_((bad > 0) | ~sum(self.losses.values()).isfinite())  # a loss can be nan where its gradients are not
        if self.clip_grad:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update(self.fixed)
        for kept, buffer in zip(self.kept, self.buffers, strict=True):
            torch.where(bad > 0, kept, buffer, out=buffer)
        self.unfinished, self.void = False, bad
        if len(self.waiting) == BLOCK or self.names != [*self.losses]:
            self._fetch()
        self.names = [*self.losses]
        self.waiting.append((number, torch.stack([bad, *self.losses.values()])))

    def report(self, loss_meter, train_meter):
        """Feed the meters with the finished step: its losses once, the mean over all samples, and its scores."""
        loss_meter.add(self.losses)
        for score, target in self.outputs:
            train_meter.add(score, target)
        self.outputs = []

    def abandon(self):
        """Undo a step that was begun and not finished: afterwards all is as after the last finished one."""
        if self.unfinished:
            for kept, buffer in zip(self.kept, self.buffers, strict=True):
                buffer.copy_(kept)
            self.optimizer.zero_grad()
            self.losses, self.outputs, self.unfinished = {}, [], False

    def skipped(self):
        """(number of the step, {name: loss}) of every step without effect since this was asked last."""
        self._fetch()
        bad, self.bad = self.bad, []
        return bad

    def state_dict(self):
        """The scale of fp16 and what it hangs on, and into how many parts a batch has to go."""
        self._fetch()
        return {**self.scaler.state_dict(), "accumulate": self.accumulate, "row": self.row}

    def load_state_dict(self, state):
        """Go on from a state_dict()."""
        self.scaler.load_state_dict(state)
        self.row = state["row"]
        self.accumulate = max(self.accumulate, state["accumulate"])  # the memory has not grown since an older state

    def _put_together(self):
        """Let gradients, losses and BatchNorm's statistics be the mean over the samples of all processes."""
        self.accumulate = self.world.agree(self.accumulate)  # as many parts as the one with the least memory
        used = [parameter.grad is not None for parameter in self.parameters]
        for parameter, mine in zip(self.parameters, used, strict=True):
            if not mine:
                parameter.grad = torch.zeros_like(parameter)
        losses = torch.stack([*self.losses.values()])
        means = [*(parameter.grad for parameter in self.parameters), losses]
        buffers = [pair for pair in zip(self.buffers, self.kept, strict=True) if pair[0].is_floating_point()]
        # Of the buffers the mean change: what nobody has changed keeps its very bits.
        changes = [torch.where(buffer == kept, 0, buffer - kept) for buffer, kept in buffers]
        means += changes
        count = torch.full((), float(self.size), device=losses.device)
        users = torch.tensor(used, dtype=torch.float32).to(losses.device, non_blocking=True)
        torch._foreach_mul_(means, count)
        self.world.sum([*means, count, users])
        torch._foreach_div_(means, count)
        for (buffer, kept), change in zip(buffers, changes, strict=True):
            buffer.copy_(kept + change)
        if not all(used):  # weights that no process has used are left alone, as one process leaves them
            for parameter, number in zip(self.parameters, users.tolist(), strict=True):
                if not number:
                    parameter.grad = None
        self.losses = dict(zip(self.losses, losses.unbind(), strict=True))

    def _shrink(self, size, count):
        """Forget a batch of `size` samples that did not fit in `count` parts; the next try has twice as many."""
        self.abandon()
        reason, self.exhausted = self.exhausted, ""
        give_back()
        torch.manual_seed(torch.initial_seed())  # what seed_step set: dropout draws as if this were the first try
        largest, self.accumulate = math.ceil(size / count), min(2 * count, size // 2)
        if self.accumulate <= count:
            raise UserError(
                f"out of memory with {largest} samples at a time, and fewer there cannot be: take smaller pictures "
                f"(--image-size) or another --model, or stop what else uses this memory ({reason})"
            )
        tqdm.write(
            f"warning: out of memory with {largest} samples at a time: going on with "
            f"{math.ceil(size / self.accumulate)} (--accumulate={self.accumulate}), the batch stays {size}",
            file=sys.stderr,
        )

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
