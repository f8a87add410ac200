"""What a frozen body makes of pictures, computed once for each."""

import hashlib

import torch
from torch import nn

from utils.train.device import eval_mode

ROOM = 1 << 30  # bytes of features that are kept at most: of 200,000 pictures with 1,280 numbers each
FEATURES: dict[bytes, torch.Tensor] = {}  # by body and picture, for all models of this process: folds have one body


class FeatureCache:
    """Scores of a network whose head alone learns: what the head gets for a picture is kept, by a hash of the body and
    one of the picture, some kilobytes each, so that all epochs but the first, and all folds but the first, take the
    head's time alone.

    Each picture goes through the body by itself: its features have the same bits in every batch.

    Args:
        net: images [N, 3, H, W] -> scores [N, C]; its body is frozen.
        head: name of its last module.
        name: of the architecture: two that have the same weights may compute different features.
    """

    def __init__(self, net: nn.Module, head: str, name: str):
        self.net, self.head, self.name = net, head, name
        self.body = b""  # hash of the body, as it was at these versions of its weights and buffers
        self.versions: list[tuple[str, int]] = []
        self.usable = True  # until the network does something behind its head

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] -> [N, C]"""
        state = {k: v for k, v in self.net.state_dict(keep_vars=True).items() if not k.startswith(f"{self.head}.")}
        versions = [(name, -1 if value.is_inference() else value._version) for name, value in state.items()]
        if versions != self.versions:  # the first call, or it was trained in between, say
            precision = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
            digest = hashlib.blake2b(f"{self.name} {precision}".encode(), digest_size=16)
            for name, value in state.items():
                digest.update(name.encode() + value.detach().contiguous().numpy().tobytes())
            self.body, self.versions = digest.digest(), versions
        rows = [self.row(image) for image in images.split(1)] if self.usable else []
        return self.net.get_submodule(self.head)(torch.cat(rows)) if self.usable else self.net(images)

    def row(self, image: torch.Tensor) -> torch.Tensor | None:
        """What the head gets for a picture [1, 3, H, W]; with None the cache is not `usable` any more."""
        pixels = image.permute(0, 2, 3, 1).contiguous().numpy()
        key = self.body + hashlib.blake2b(pixels, digest_size=16).digest()
        row = FEATURES.get(key)
        if row is None:
            inputs: list[torch.Tensor] = []
            head = self.net.get_submodule(self.head)
            handle = head.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
            with torch.inference_mode(False), torch.no_grad(), eval_mode(self.net):
                score = self.net(image.clone())
                handle.remove()
                self.usable &= len(inputs) == 1 and torch.equal(head(inputs[0]), score)
            row = inputs[0] if self.usable else None
            if row is not None and len(FEATURES) * row.nbytes < ROOM:
                FEATURES[key] = row
        return row
