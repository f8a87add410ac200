"""A model that `export` wrote, run by another library than torch: val, test and predict take it as best.pth."""

from typing import Any

import torch
from torch import nn

from utils import UserError
from utils.deploy.exported import open_exported

from .basic_module import BasicModule

TINY = 1e-30  # probabilities are not below this when their logarithm is taken


class ExportedFile(BasicModule):
    """Batches as the data sets prepare them -> probabilities [N, C, ...]. The file takes bytes: forward restores them.

    Args:
        num_classes: of the file.
        load_model_path: the file.
        opened: (its session, what it says about itself), if it is open, see open_exported.

    Raises UserError where there is no such file.
    """

    def __init__(self, num_classes: int = 2, load_model_path: str | None = None, opened: Any = None):
        super().__init__()
        if not load_model_path:
            raise UserError(
                "--model=ExportedFile is an exported model, which cannot be trained: give val, test or predict one"
            )
        session, facts = opened or open_exported(load_model_path)
        self.path, self.classes = load_model_path, facts["classes"]
        self.session, self.task, self.loss = session, facts["task"], facts["loss"]
        mean, std = torch.tensor([facts["preparation"]["mean"], facts["preparation"]["std"]]).view(2, -1, 1, 1)
        # A parameter and not a buffer: it is where the model's device is looked up.
        self.mean, self.std = (
            nn.Parameter(255 * mean, requires_grad=False),
            nn.Parameter(255 * std, requires_grad=False),
        )
        self.set_criterion()

    def fed(self, x: torch.Tensor) -> dict[str, Any]:
        """A prepared batch as {name of the file's input: array}, bytes that the batch was normalised from. Raises
        UserError where the file takes another size."""
        (input,) = self.session.get_inputs()
        if self.mean.numel():
            x = (x * self.std + self.mean).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
        if list(x.shape[1:]) != input.shape[1:]:
            takes, got = ("x".join(map(str, shape[1::-1])) for shape in (input.shape[1:], x.shape[1:]))
            raise UserError(f"{self.path} takes pictures of {takes} pixels, not {got}: leave --image-size out")
        return {input.name: x.contiguous().cpu().numpy()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, 3, H, W] or [N, 1, 2] -> probabilities [N, C, ...]"""
        (scores,) = self.session.run(None, self.fed(x))
        return torch.from_numpy(scores).to(x.device)

    def objective(self, input: Any, target: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        """(probabilities, losses): their logarithm is a score with the same softmax."""
        score = self(input)
        return score, self.criterion(score.clamp_min(TINY).log() if score.shape[1] > 1 else score, target)

    def decode(self, score: Any) -> Any:
        """They are probabilities already."""
        return score

    def load(
        self, path: Any, partly: bool = False, content: dict[str, Any] | None = None, least: float = 0.9
    ) -> dict[str, Any]:
        """Nothing: the file is open."""
        return content or {}
