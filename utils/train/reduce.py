"""A step's means over the samples of all processes.

Gradients are summed here, in one flat piece and a fixed order, and not by DistributedDataParallel: that regroups its
buckets after the first step, so that a resumed run would add in another order, and it cannot retry a micro-batch that
ran out of memory. The cost is that communication does not overlap with the backward pass, see docs/distributed.md.
"""

import torch

from .processes import World


def average(
    world: World,
    size: int,
    parameters: list[torch.nn.Parameter],
    losses: dict[str, torch.Tensor],
    buffers: list[torch.Tensor],
    kept: list[torch.Tensor],
) -> dict[str, torch.Tensor]:
    """Replace gradients and BatchNorm's statistics by their means over the samples of all processes. Returns those of
    the losses.

    Args:
        size: samples of this process.
        parameters: whose `grad` is replaced; it stays None where no process has one.
        losses: {name: scalar}, this process's means.
        buffers, kept: flat buffers, now and before the step.
    """
    used = [parameter.grad is not None for parameter in parameters]
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    values = torch.stack([*losses.values()])
    floats = [pair for pair in zip(buffers, kept, strict=True) if pair[0].is_floating_point()]
    # The mean of the buffers' changes: unchanged buffers stay bit-identical.
    changes = [torch.where(buffer == before, 0, buffer - before) for buffer, before in floats]
    means = [*gradients, values, *changes]
    count = torch.full((), float(size), device=values.device)
    users = torch.tensor(used, dtype=torch.float32).to(values.device, non_blocking=True)
    torch._foreach_mul_(means, count)
    world.all_reduce_sum([*means, count, users])
    torch._foreach_div_(means, count)
    for (buffer, before), change in zip(floats, changes, strict=True):
        buffer.copy_(before + change)
    if not all(used):  # a weight that no process has used keeps no gradient, as in a single process
        for parameter, gradient, number in zip(parameters, gradients, users.tolist(), strict=True):
            parameter.grad = gradient if number else None
    return dict(zip(losses, values.unbind(), strict=True))
