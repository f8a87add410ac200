"""How many channels the layers of a pruned model have: plain values in its checkpoints, and layers that get them."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

# {kind of layer: its attributes that are numbers of channels}, the output's first.
KINDS: dict[type[nn.Module], tuple[str, ...]] = {
    _ConvNd: ("out_channels", "in_channels", "groups"),
    nn.Linear: ("out_features", "in_features"),
    _BatchNorm: ("num_features",),
}


def attributes(layer: Any) -> tuple[str, ...]:
    """Those of KINDS; none of any other layer."""
    return next((names for kind, names in KINDS.items() if isinstance(layer, kind)), ())


def channels(module: nn.Module) -> dict[str, list[int]]:
    """{layer: [out, in, groups] of a convolution, [out, in] of a linear layer, [out] of a BatchNorm}."""
    layers = {name: layer for name, layer in module.named_modules() if attributes(layer)}
    return {name: [getattr(layer, one) for one in attributes(layer)] for name, layer in layers.items()}


def changed(new: dict[str, list[int]], old: dict[str, list[int]]) -> dict[str, list[int]]:
    """Those of the new channels that differ from the old ones; in their lists 0 stands for what is equal."""
    pairs = {name: zip(one, old[name], strict=True) for name, one in new.items() if one != old[name]}
    return {name: [one if one != other else 0 for one, other in pair] for name, pair in pairs.items()}


def resize(module: nn.Module, wanted: dict[str, list[int]]) -> None:
    """Give layers these channels, see `changed`; weights of another shape are zeros then. All else stays as it is, and
    names that the module does not have are left to whoever loads its weights."""
    for name, layer in module.named_modules():
        for attribute, size in zip(attributes(layer), wanted.get(name, ()), strict=False):
            setattr(layer, attribute, size or getattr(layer, attribute))
        for key, tensor in (*layer._parameters.items(), *layer._buffers.items()) if name in wanted else ():
            # A BatchNorm's number of batches has no channels. What fits already is the optimizer's, too.
            if tensor is not None and tensor.ndim and tensor.shape != shape(layer, tensor):
                zeros = tensor.new_zeros(shape(layer, tensor))
                learns = isinstance(tensor, nn.Parameter)
                setattr(layer, key, nn.Parameter(zeros, tensor.requires_grad) if learns else zeros)


def shape(layer: Any, tensor: torch.Tensor) -> tuple[int, ...]:
    """That of a tensor of a layer of KINDS, by the layer's channels."""
    out, *rest = (getattr(layer, one) for one in attributes(layer))
    if tensor.ndim == 1:
        return (out,)
    inner, groups = rest[0], rest[1] if len(rest) > 1 else 1
    first, second = (inner, out) if getattr(layer, "transposed", False) else (out, inner)
    return (first, second // groups, *tensor.shape[2:])
