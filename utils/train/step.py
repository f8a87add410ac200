"""One step of the optimizer, all or nothing: micro-batches, precision, clipping, moving average, and no step at all
where a number is not finite."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .device import DeviceNumbers, compiled, flatten_buffers
from .ema import Ema
from .memory import Splitter
from .processes import ALONE, World
from .reduce import average
from .seeds import reseed
from .slimming import Slimming

SEARCH = 16  # steps in a row that fp16 may skip without a warning to find its scale, which begins at 2 ** 16


class TrainStep:
    """What happens between a prepared batch and the changed weights (main.py shows its use), without waiting for the
    device. The model's buffers become views of flat tensors, see flatten_buffers.

    Where a gradient is not finite the step leaves no trace: not in the weights, the optimizer's state, BatchNorm's
    statistics or the moving average. The device decides that by itself; `pop_skipped` reports it later.

    Where the memory is too small for a micro-batch, `attempt` ends it and `micro_batches` begins the batch again with
    smaller ones, for the rest of the run: the step is the one that --accumulate would have made of the same samples.

    Args:
        module: the model, whose trainable parameters `optim` has; on its device already.
        optim: the optimizer, a fused one of torch.optim; for any other the device has to be waited for.
        world: the World, whose processes each have their share of a batch: the step is that of all of it.
        precision: fp32, bf16 or fp16; with fp16 the loss is scaled, so that small gradients do not become 0
            (Micikevicius et al. 2018, arXiv:1710.03740).
        accumulate, clip_grad, slim, ema, compile: as in config.py.

    Attributes:
        ema_model: the model to validate: the moving average, or without one the model itself.
        parameters: the trainable ones; their gradients stay until the next batch, as clipped means over all processes.
        was_skipped: scalar tensor, 1 where the last step had no effect, else 0.
        losses: {name: scalar tensor}, of the last step: means over all its samples.
        outputs: [(score, target)] of its micro-batches. batch: the (input, target) that they are parts of.
    """

    def __init__(
        self,
        module: Any,
        optim: torch.optim.Optimizer,
        world: World = ALONE,
        precision: str = "fp32",
        accumulate: int = 1,
        clip_grad: float = 0.0,
        slim: float = 0.0,
        ema: float = 0.0,
        compile: bool = False,
    ):
        self.model, self.optimizer, self.clip_grad, self.world = module, optim, clip_grad, world
        self.parameters = [parameter for group in optim.param_groups for parameter in group["params"]]
        # Without scaling the factor is always 1, and the scaler only looks for what is not finite.
        self.fixed_scale = None if precision == "fp16" else 1.0
        self.device = self.parameters[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, init_scale=self.fixed_scale or 2.0**16)
        self.splitter = Splitter(accumulate, least=2)  # BatchNorm cannot learn from a single sample
        self.attempt = self.splitter.attempt
        self.buffers = flatten_buffers(module.buffers())
        self.kept = [buffer.clone() for buffer in self.buffers]
        self.slimming = Slimming(module, slim)
        self.ema = Ema(module, self.buffers, ema)
        self.ema_model: Any = self.ema.ema_model
        self.compute = compiled(module.objective) if compile else module.objective
        self.waiting, self.row = DeviceNumbers(self._count), 0  # row: how many steps in a row had no effect
        self.skipped: list[tuple[int, dict[str, float]]] = []
        self.unfinished, self.share = False, 1.0
        self.batch: tuple[Any, Any] | None = None  # the last one
        self.losses: dict[str, torch.Tensor] = {}
        self.outputs: list[tuple[Any, Any]] = []

    def micro_batches(self, input: Any, target: Any) -> Iterator[tuple[Any, Any]]:
        """Yield the batch in parts, (input, target) each, of two samples at least; all of it again, in smaller ones,
        after running out of memory. Raises UserError where there are no smaller ones."""
        for kept, buffer in zip(self.kept, self.buffers, strict=True):
            kept.copy_(buffer)
        self.size, self.batch = len(input), (input, target)  # no longer held than by the loop
        self._begin()
        for part in self.splitter.split(self.size, restart=self.rollback):
            self.unfinished, self.target, self.share = True, target[part], (part.stop - part.start) / self.size
            yield input[part], self.target

    def objective(self, input: Any, target: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        """(score, {name: loss}) of the model's objective, computed in its precision."""
        with self.model.autocast():
            return self.compute(input, target)

    def backward(self, losses: dict[str, torch.Tensor], score: Any) -> torch.Tensor:
        """Add the gradients of one micro-batch's losses, {name: scalar}, and return their sum, the loss; score is for
        the meters."""
        loss: Any = sum(losses.values())
        self.scaler.scale(loss * self.share).backward()
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value.detach().float() * self.share
        score = score.detach() if isinstance(score, torch.Tensor) else score  # its graph may keep activations alive
        self.outputs.append((score, self.target))
        return loss.detach()

    def apply(self, number: int) -> None:
        """Change the weights, unless a loss or gradient is not finite; `number` is the step's index."""
        if self.world.size > 1:
            self.splitter.parts = self.world.all_reduce_max(self.splitter.parts)  # as the one with the least memory
            self.losses = average(self.world, self.size, self.parameters, self.losses, self.buffers, self.kept)
        self.scaler.unscale_(self.optimizer)
        (skip,) = self.scaler._found_inf_per_device(self.optimizer).values()  # there is no public way to ask
        total: Any = sum(self.losses.values())
        skip.copy_((skip > 0) | ~total.isfinite())  # a loss can be nan where its gradients are not
        self.slimming.add_gradient()
        if self.clip_grad:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update(self.fixed_scale)
        for kept, buffer in zip(self.kept, self.buffers, strict=True):
            torch.where(skip > 0, kept, buffer, out=buffer)
        self.unfinished, self.was_skipped = False, skip
        self.ema.update(self.was_skipped)
        self.waiting.add(number, {"": skip, **self.losses})

    def rollback(self) -> None:
        """Undo a step that was begun and not finished: afterwards all is as after the last finished one."""
        if self.unfinished:
            for kept, buffer in zip(self.kept, self.buffers, strict=True):
                buffer.copy_(kept)
            self._begin()
            self.unfinished = False

    def pop_skipped(self) -> list[tuple[int, dict[str, float]]]:
        """(number of the step, {name: loss}) of every step without effect since the last call."""
        self.waiting.fetch()
        skipped, self.skipped = self.skipped, []
        return skipped

    def state_dict(self) -> dict[str, Any]:
        """The scale of fp16 and what it depends on, the number of micro-batches, and the moving average."""
        self.waiting.fetch()
        own = {"accumulate": self.splitter.parts, "row": self.row, "ema": self.ema.state_dict()}
        return {**self.scaler.state_dict(), **own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a state_dict()."""
        self.scaler.load_state_dict(state)
        self.row = state["row"]
        # The memory has not grown since an older state.
        self.splitter.parts = max(self.splitter.parts, state["accumulate"])
        self.ema.load_state_dict(state["ema"])

    def _begin(self) -> None:
        self.optimizer.zero_grad()
        self.losses, self.outputs = {}, []
        reseed(self.device)  # callbacks may have drawn numbers since `batches` set the seed, or a first try dropout's

    def _count(self, number: int, numbers: dict[str, float]) -> None:
        """One step's numbers, once they are fetched."""
        skip = numbers.pop("")
        self.row = self.row + 1 if skip else 0
        searching = self.fixed_scale is None and math.isfinite(sum(numbers.values())) and self.row <= SEARCH
        if skip and not searching:
            self.skipped.append((number, numbers))
