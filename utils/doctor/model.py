"""What is wrong with a model before it has learned anything: what device and optimizer do not reach, and what one step
shows."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from .case import Case
from .finding import LOOK, OK, WRONG, Finding, failed, judged

LIBRARIES = "torch", "torchvision", "timm"  # whose modules know what they keep in plain lists
DEPTH = 3  # of lists in lists
OVER_CLASSES = "cross_entropy", "label_smoothing", "focal"  # losses that compute the softmax themselves
FAR, WIDE = 5.0, 10.0  # normalised inputs: mean and standard deviation stay below


def check(case: Case) -> Iterator[Finding]:
    """Yield the Findings on the model, of one training step at last; where that fails, the step's alone."""
    yield unregistered(case.model)
    yield placed(case)
    yield optimized(case)
    yield from stepped(case)


def unregistered(model: Any) -> Finding:
    """Modules and tensors that a module has in a plain list, dict or attribute, where to() and parameters() miss them:
    wrong where they would learn, to be looked at where they are constants."""
    known = {id(one) for one in [*model.modules(), *model.parameters(), *model.buffers()]}
    learning: list[str] = []
    constant: list[str] = []
    for place, module in model.named_modules():
        if type(module).__module__.partition(".")[0] in LIBRARIES:
            continue
        for name, value in vars(module).items():
            for thing in () if name.startswith("_") else contents(value):
                if id(thing) not in known:
                    full = f"{place}.{name}".lstrip(".")
                    learns = isinstance(thing, (nn.Module, nn.Parameter)) or thing.requires_grad
                    (learning if learns else constant).append(full)
    if learning:
        advice = "to() and the optimizer miss it: use nn.ModuleList, nn.ModuleDict or nn.Parameter"
        return judged("registered", list(dict.fromkeys(learning)), "", "layers in a plain list or dict,", advice)
    advice = "to() and checkpoints miss it: use register_buffer"
    sound = f"all {len(list(model.parameters()))} parameters are known to the model"
    return judged(
        "registered", list(dict.fromkeys(constant)), sound, "tensors that are no buffers,", advice, verdict=LOOK
    )


def contents(value: Any, depth: int = DEPTH) -> Iterator[Any]:
    """Yield the tensors, and the modules with parameters or buffers, in a value and the lists and dicts below it."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, nn.Module):
        if value.state_dict():
            yield value
    elif depth and isinstance(value, (list, tuple, set, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from contents(one, depth - 1)


def placed(case: Case) -> Finding:
    """Parameters and buffers on another device than the model, and parameters that are not float32."""
    parameters, buffers = list(case.model.named_parameters()), list(case.model.named_buffers())
    away = [f"{name} ({one.device})" for name, one in [*parameters, *buffers] if one.device != case.device]
    if away:
        advice = "make it in __init__ without a device, to() moves it"
        return judged("device and type", away, "", f"not on {case.device},", advice)
    other = [f"{name} ({str(one.dtype)[6:]})" for name, one in parameters if one.dtype != torch.float32]
    advice = "leave it float32, --precision=bf16 computes in 16 bits"
    return judged("device and type", other, f"float32 on {case.device}", "not float32,", advice)


def optimized(case: Case) -> Finding:
    """Whether the optimizer has all parameters that learn, and no frozen ones."""
    with case.copy() as model:
        optimizer = case.optimizer(model)
        held = {id(one) for group in optimizer.param_groups for one in group["params"]}
        named = list(model.named_parameters())
    frozen = [name for name, one in named if id(one) in held and not one.requires_grad]
    if frozen:
        advice = "give it only those with requires_grad: weight decay and momentum may still change the others"
        return judged("optimizer", frozen, "", "it has frozen parameters,", advice)
    lost = [name for name, one in named if id(one) not in held and one.requires_grad]
    sound = f"{case.opt.optimizer} has the {len(held)} parameters that learn"
    sound += f", {len(named) - len(held)} are frozen" if len(held) < len(named) else ""
    return judged("optimizer", lost, sound, "it lacks", "they never change: give them to it, or freeze them")


def stepped(case: Case) -> Iterator[Finding]:
    """Yield the Findings of one step forward and backward on the first training batch."""
    with case.copy() as model:
        input, target = next(case.batches(1))
        yield (scale := scaled(input))
        if scale.verdict != OK:
            return
        norms: dict[str, tuple[int, int]] = {}  # of each BatchNorm: samples, values per channel
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:

                def see(module: nn.Module, inputs: Any, name: str = name) -> None:
                    norms[name] = len(inputs[0]), inputs[0].numel() // inputs[0].shape[1]

                module.register_forward_pre_hook(see)
        failure = None
        try:
            with model.autocast():
                score, losses = model.objective(input, target)
            sum(losses.values()).backward()
        except Exception as error:  # a model may raise anything
            failure = error
        yield (norm := normed(norms))
        if failure:
            if norm.verdict != WRONG:
                yield failed("a step", failure)
            return
        yield reached(model)
        yield shown(score, case.losses)


def scaled(input: Any) -> Finding:
    """Whether the numbers that the model gets are finite and normalised."""
    tensors = [one for one in tree_leaves(input) if isinstance(one, torch.Tensor)]
    numbers = torch.cat([one.detach().flatten().float() for one in tensors])
    if not numbers.isfinite().all():
        return Finding("input", WRONG, "it has nan or inf", "look at the data set's prepare, and at its files")
    mean, std = numbers.mean().item(), numbers.std().item()
    found = f"mean {mean:.3g}, standard deviation {std:.3g}, from {numbers.min():.3g} to {numbers.max():.3g}"
    if abs(mean) > FAR or std > WIDE:
        return Finding("input", WRONG, f"not normalised, {found}", "subtract mean and divide by deviation in prepare")
    return Finding("input", OK, found)


def normed(norms: dict[str, tuple[int, int]]) -> Finding:
    """Whether BatchNorm, {name: (samples, values per channel)}, has values to take statistics of."""
    name, advice = "BatchNorm", "a larger --batch-size, or fewer parts (--accumulate)"
    lone = [layer for layer, (_, values) in norms.items() if values == 1]
    if lone:
        return judged(name, lone, "", "one value per channel, which has no variance, in", advice)
    single = [layer for layer, (samples, _) in norms.items() if samples == 1]
    sound = f"{len(norms)} layers, {min((one for _, one in norms.values()), default=0)} values per channel or more"
    sound = sound if norms else "there is none that learns"
    return judged(name, single, sound, "statistics of a single sample in", f"{advice}, or GroupNorm", verdict=LOOK)


def reached(model: Any) -> Finding:
    """Parameters that learn and got no gradient."""
    learning = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
    without = [name for name, one in learning if one.grad is None]
    advice = "forward does not use it, or cuts it off (detach, .data, numpy): use it, or freeze or remove it"
    return judged("gradients reach", without, f"all {len(learning)} parameters that learn", "not", advice)


def shown(score: Any, losses: Sequence[str]) -> Finding:
    """Whether the scores go into a loss that they fit: cross-entropy takes them before the softmax."""
    if not isinstance(score, torch.Tensor) or score.ndim < 2 or not {*losses} & {*OVER_CLASSES}:
        return Finding("output", OK, f"goes into {', '.join(losses) or 'losses of the model'}")
    sums = score.detach().float().sum(dim=1)
    if score.min() >= 0 and (sums - 1).abs().max() < 0.01:
        found = f"probabilities go into {', '.join(losses)}, which computes the softmax itself"
        return Finding("output", WRONG, found, "return the scores before the softmax; decode makes probabilities")
    spread = score.detach().float().std().item()
    return Finding("output", OK, f"scores {[*score.shape]} with standard deviation {spread:.3g} go into {losses[0]}")
