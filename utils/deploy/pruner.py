"""Takes channels out of a model with the library Torch-Pruning, which is imported here alone."""

import copy
import warnings
from typing import Any

import torch
from torch import nn

from utils import UserError
from utils.run.channels import attributes

INSTALL = "pip install torch-pruning==1.6.1"
ROUND = 8  # channels are a multiple of this, and never fewer: kernels are made for such numbers
ROOTS = nn.modules.conv._ConvNd, nn.Linear  # layers whose own channels are pruned; BatchNorms follow


class Pruner:
    """Makes pruned copies of a model.

    Args:
        module: a BasicModule in eval mode.
        input: a prepared batch on its device, by which the library finds out which layers depend on each other.
        importance: l1, l2, fpgm or slim, which channels stay: those with the largest weights, those farthest from
            the others, those with the largest scale in their BatchNorms.
        sizes: {layer: channels} before any pruning, to which the ratio applies, see `widths`; None: as it is.

    Attributes:
        whole: names of the layers that keep all their channels: the last one's are the classes.
        kept: names of the layers that the last copy had to keep as they were, because they depend on a layer
            that is no convolution, linear layer or BatchNorm.

    Raises UserError where the library is not installed, and for a model without layers, or what `importance` ranks.
    """

    def __init__(self, module: Any, input: torch.Tensor, importance: str, sizes: dict[str, int] | None = None):
        try:
            import torch_pruning
        except ImportError:
            raise UserError(f"prune needs a package that is not installed: {INSTALL}") from None
        if not any(isinstance(layer, ROOTS) for layer in module.modules()):
            raise UserError(f"{module.model_name} has no convolution and no linear layer: there is nothing to prune")
        self.library, self.module, self.input, self.name = torch_pruning, module, input, importance
        self.kept: list[str] = []
        self.sizes = sizes or widths(module)
        self.whole = [*last_layer(module, input), *attention(module)]
        norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        if importance == "slim" and not norms:
            raise UserError(
                f"--importance=slim ranks channels by the scales of BatchNorms, and {module.model_name} has none: give "
                "l1, l2 or fpgm"
            )

    def __call__(self, ratio: float) -> Any:
        """A copy of the model, in eval mode, in which layers have about this share of their channels less. Raises
        UserError where the library cannot follow the model."""
        pruned, self.kept = copy.deepcopy(self.module), []
        names = {layer: name for name, layer in pruned.named_modules()}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of parameters that it would prune, and `foreign` keeps
                pruner = self.library.pruner.BasePruner(
                    pruned,
                    self.input,
                    importance=self.importance(),
                    pruning_ratio=ratio,
                    pruning_ratio_dict=self.shares(names, ratio),
                    ignored_layers=[pruned.get_submodule(name) for name in self.whole],
                    in_channel_groups={},  # else it changes its own defaults, for the next model too
                    out_channel_groups={},
                )
                for group in pruner.step(interactive=True):
                    if not any(foreign(part.target.module, names) for part, _ in group):
                        group.prune()
                        continue
                    own = [part.target.module for part, _ in group if pruner.DG.is_out_channel_pruning_fn(part.handler)]
                    self.kept += [names[layer] for layer in own if attributes(layer)]
                shape = pruned.predict(self.input).shape
            if shape != self.module.predict(self.input).shape:
                raise ValueError(f"its scores lose classes, {list(shape)} are left")
        except Exception as error:  # it raises anything for what it does not know
            why = " ".join(f"{type(error).__name__}: {error}".split())[:160]
            raise UserError(f"{self.module.model_name} cannot be pruned, Torch-Pruning fails: {why}") from None
        return pruned.eval()

    def importance(self) -> Any:
        """What ranks a group's channels."""
        ranks = self.library.importance
        if self.name == "fpgm":
            return ranks.FPGMImportance()
        if self.name == "slim":
            return ranks.BNScaleImportance()
        return ranks.MagnitudeImportance(p=int(self.name[1]))

    def empty(self, ratio: float) -> list[str]:
        """Names of the layers that would have no channel left with this ratio."""
        sizes = {name: size for name, size in self.sizes.items() if name not in self.whole}
        return [name for name, size in sizes.items() if size > ROUND and size * (1 - ratio) < 1]

    def shares(self, names: dict[Any, str], ratio: float) -> dict[Any, float]:
        """{layer: the share of its channels that goes}: it keeps the next multiple of ROUND of what the ratio leaves of
        its size, ROUND at least and all at most."""
        found = {}
        for layer in names:
            if isinstance(layer, ROOTS):
                wanted = round(self.sizes[names[layer]] * (1 - ratio) / ROUND) * ROUND
                kept = min(width(layer), max(ROUND, wanted))
                found[layer] = max(0.0, 1 - (kept + 0.5) / width(layer))  # half more, as the library rounds down
        return found


def last_layer(module: Any, input: Any) -> list[str]:
    """The name of the layer of ROOTS that computes last, whose channels are the classes; [] where none does."""
    order: list[str] = []
    handles = [
        layer.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, layer in module.named_modules()
        if isinstance(layer, ROOTS)
    ]
    with torch.no_grad():
        module(input)
    for handle in handles:
        handle.remove()
    return order[-1:]


def width(layer: Any) -> int:
    """A layer's channels."""
    return int(getattr(layer, attributes(layer)[0]))


def widths(module: nn.Module) -> dict[str, int]:
    """{layer of ROOTS: its channels}"""
    return {name: width(one) for name, one in module.named_modules() if isinstance(one, ROOTS)}


def attention(module: nn.Module) -> list[str]:
    """Names of the layers that attention splits into heads, which has to come out even."""
    parts = [(name, one) for name, one in module.named_modules() if hasattr(one, "num_heads")]
    return [
        f"{name}.{child}" for name, one in parts for child, layer in one.named_children() if isinstance(layer, ROOTS)
    ]


def foreign(layer: Any, names: dict[Any, str]) -> bool:
    """Whether a layer has weights that a pruned checkpoint cannot describe."""
    if isinstance(layer, nn.Parameter):
        return True
    own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    return layer in names and bool(own) and not attributes(layer)
