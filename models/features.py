"""What a frozen body makes of pictures, computed once for each."""

import hashlib

import torch
from torch import nn

from utils.train.device import eval_mode

ROOM = 1 << 30  # bytes of features that are kept at most: of 200,000 pictures with 1,280 numbers each


class FeatureCache:
    """Scores of a network whose head alone learns: what the head gets for a picture is kept, by a hash of the
    picture, some kilobytes each, so that all epochs but the first take the head's time alone.

    Each picture goes through the body by itself: its features have the same bits in every batch.

    Args:
        net: images [N, 3, H, W] -> scores [N, C]; its body is frozen.
        head: name of its last module.
    """

    def __init__(self, net: nn.Module, head: str):
        self.net, self.head = net, head
        self.rows: dict[bytes, torch.Tensor] = {}
        self.state: list[int] = []  # the versions of the body's weights that the rows are of
        self.usable = True  # until the network does something behind its head

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, C]"""
        state = [one._version for name, one in self.net.named_parameters() if not name.startswith(f"{self.head}.")]
        if state != self.state:  # it was trained in between, say
            self.rows, self.state = {}, state
        rows = [self.row(image) for image in images.split(1)] if self.usable else []
        return self.net.get_submodule(self.head)(torch.cat(rows)) if self.usable else self.net(images)

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
            if row is not None and len(self.rows) * row.nbytes < ROOM:
                self.rows[key] = row
        return row
