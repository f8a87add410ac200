"""What a frozen body makes of pictures, computed once for each."""

import copy
import hashlib
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn

from utils.train.device import eval_mode

ROOM = 1 << 30  # bytes of features that are kept at most: of 200,000 pictures with 1,280 numbers each


class Rows(dict[bytes, torch.Tensor]):
    """What one body makes of pictures, by their hashes."""

    nbytes = 0


BODIES: WeakValueDictionary[bytes, Rows] = WeakValueDictionary()  # of this process's models, by hash: folds have one
NEWEST: list[Rows] = []  # held, because a fold's model is gone before the next one's is there


class FeatureCache:
    """Scores of a network whose head alone learns: what the head gets for a picture is kept, by a hash of the body and
    one of the picture, some kilobytes each, so that all epochs but the first, and all folds but the first, take the
    head's time alone. A copy keeps its own.

    Each picture goes through the body by itself: its features have the same bits in every batch.

    Args:
        net: images [N, 3, H, W] -> scores [N, C]; its body is frozen.
        head: name of its last module.
        name: of the architecture: two that have the same weights may compute different features.
    """

    def __init__(self, net: nn.Module, head: str, name: str):
        self.net, self.head, self.name = net, head, name
        self.rows, self.shared = Rows(), True
        self.versions: list[tuple[str, int]] = []  # of the body's weights and buffers that the rows are of
        self.usable = True  # until the network does something behind its head

    def __deepcopy__(self, memo: dict[int, Any]) -> "FeatureCache":
        other = FeatureCache(copy.deepcopy(self.net, memo), self.head, self.name)
        other.shared = False
        return other

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, C]"""
        state = {k: v for k, v in self.net.state_dict(keep_vars=True).items() if not k.startswith(f"{self.head}.")}
        versions = [(name, -1 if value.is_inference() else value._version) for name, value in state.items()]
        if versions != self.versions:  # the first call, or it was trained in between, say
            self.rows, self.versions = self.rows_of(state), versions
        rows = [self.row(image) for image in images.split(1)] if self.usable else []
        return self.net.get_submodule(self.head)(torch.cat(rows)) if self.usable else self.net(images)

    def rows_of(self, state: dict[str, torch.Tensor]) -> Rows:
        """The Rows of this body, {name: tensor}."""
        if not self.shared:
            return Rows()
        precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
        digest = hashlib.blake2b(f"{self.name} {precision}".encode(), digest_size=16)
        for name, value in state.items():
            digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
        NEWEST[:] = [BODIES.setdefault(digest.digest(), Rows())]
        return NEWEST[0]

    def row(self, image: torch.Tensor) -> torch.Tensor | None:
        """What the head gets for a picture [1, 3, H, W]; with None the cache is not `usable` any more."""
        key = hashlib.blake2b(image.permute(0, 2, 3, 1).contiguous().numpy(), digest_size=16).digest()
        row = self.rows.get(key)
        if row is None:
            inputs: list[torch.Tensor] = []
            head = self.net.get_submodule(self.head)
            handle = head.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
            with torch.inference_mode(False), torch.no_grad(), eval_mode(self.net):
                score = self.net(image.clone())
                handle.remove()
                self.usable &= len(inputs) == 1 and torch.equal(head(inputs[0]), score)
            row = inputs[0] if self.usable else None
            held = sum(rows.nbytes for rows in [*BODIES.values(), *[self.rows] * (not self.shared)])
            if row is not None and held + row.nbytes < ROOM:
                self.rows[key] = row
                self.rows.nbytes += row.nbytes
        return row
