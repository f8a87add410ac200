"""The model contract: what the loop in main.py needs from a model, and how models are saved and loaded."""

import collections
import dataclasses
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils import UserError
from utils.deploy.predictor import Predictor
from utils.deploy.results import Prediction
from utils.files import numbered
from utils.run import channels
from utils.run.checkpoint_file import read_checkpoint, write_checkpoint
from utils.run.weights import fitting_weights
from utils.train.device import device_of
from utils.train.optimizers import make_optimizer

from .losses import Criterion

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class BasicModule(nn.Module):
    """A model: write `__init__(num_classes)` and `forward(x)` as in any nn.Module; override the rest as needed.

    If the constructor names other options of config.py (image_size, width, one of your own), they are passed to it.

    Attributes:
        task: what it predicts, see BaseData.
        head: name of the child that turns features into scores; fine-tuning trains only that.
        val_loss: whether `objective` gives losses in eval mode too.
        loss: name of the default loss, see losses.py.
        inner: name of the child that is another library's whole model, or "". That library's checkpoints load too.
        info: plain values saved with the weights (class names, options, where the weights it began with are from, the
            channels of a pruned model), set by the training, or by `load` as the file has them.
        precision: fp32, bf16 or fp16, used by `autocast`.
        criterion: (score, target) -> {name: scalar loss}, used by `objective`.
    """

    task = "classification"
    head = ""
    val_loss = True
    loss = "cross_entropy"
    inner = ""
    precision = "fp32"

    def __init__(self) -> None:
        super().__init__()
        self.model_name = type(self).__name__
        self.info: dict[str, Any] = {}
        self.set_criterion()

    def set_criterion(self, names: str | None = None, weight: Any = None) -> None:
        """Use these losses (see losses.Criterion), or the model's default when names is None."""
        self.criterion = Criterion(names or self.loss, weight)

    def objective(self, input: Any, target: Any) -> tuple[Any, dict[str, torch.Tensor]]:
        """A step of training or validation: input and target of a prepared batch -> (score, losses).

        score is what `decode` takes, here [N, C]; losses is {name: scalar}, and the loop minimises their sum.
        """
        score = self(input)
        return score, self.criterion(score, target)

    def samples(self, target: Any) -> Any:
        """By how much a batch's losses count in their mean over several, see Criterion.samples: a number, or a scalar
        tensor. Of a model with losses of its own it is the number of samples."""
        criterion = getattr(self, "criterion", None)
        return criterion.samples(target) if isinstance(criterion, Criterion) else len(target)

    def decode(self, score: Any) -> Any:
        """Scores [N, C, ...] -> predictions, here probabilities: float32, the classes sum to 1."""
        return score.float().softmax(dim=1)

    def predict(self, input: Any) -> Any:
        """A prepared batch -> predictions, see decode."""
        return self.decode(self(input))

    def predict_files(self, paths: Iterable[str | Path] | str | Path, top: int = 5) -> list[Prediction]:
        """What a trained model says about pictures, with names: the `top` best classes or objects of each. Of one that
        cannot be read `error` says why. A single path will do, too."""
        paths = [paths] if isinstance(paths, str | Path) else paths
        predictor = Predictor(self, self.info["config"])
        return [dataclasses.replace(one, found=one.found[:top]) for one in predictor(paths)]

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for objective and predict: convolutions and products run in `precision`, operations that need
        more digits (softmax, losses) in float32. Weights and gradients are always float32."""
        return torch.autocast(device_of(self).type, TYPES[self.precision], enabled=self.precision != "fp32")

    def get_optimizer(
        self, name: str, lr: float, weight_decay: float, momentum: float, **options: Any
    ) -> torch.optim.Optimizer:
        """An optimizer of the trainable parameters, see utils/train/optimizers.py."""
        return make_optimizer(self.parameters(), name, lr, weight_decay, momentum, **options)

    def freeze_body(self, unfreeze_epoch: int | None = None) -> None:
        """Make only the head trainable (fine-tuning); with an unfreeze_epoch all, so that the optimizer has it: then
        Steering freezes the body until that epoch. Raises UserError when the class does not name its head."""
        if not self.head:
            raise UserError(f"{self.model_name} has no head to fine-tune: set `head` in its class to a child's name")
        for name, parameter in self.named_parameters():
            parameter.requires_grad = bool(unfreeze_epoch) or name.startswith(f"{self.head}.")

    def freeze_as_trained(self, opt: Any) -> None:
        """Freeze the body if the options `opt` of its training left it as it was: then folds have one body, which has
        to look at a picture once for all of them, see features.py."""
        if self.head and opt.finetune and not opt.unfreeze_epoch:  # an exported file has none
            self.freeze_body()

    def train(self, mode: bool = True) -> "BasicModule":
        """Switch to training mode. Frozen parts stay in eval mode, so that their BatchNorm statistics do not change."""
        super().train(mode)
        for module in self.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                for part in module.modules():  # not module.eval(): a BasicModule's would call this method again
                    part.training = False
        return self

    def resize(self, wanted: dict[str, list[int]]) -> None:
        """Give layers the channels of a pruned model, {} for none, and keep them in `info`, see channels.resize."""
        channels.resize(self, wanted)
        self.info |= {"channels": wanted} if wanted else {}

    def save(self, name: str | Path | None = None, previous: Path | None = None, **state: Any) -> str:
        """Write the weights, `info` and any other plain `state` (optimizer, ...), see write_checkpoint.

        The default name is checkpoints/<Model>_<mmdd_HH_MM_SS>.pth, never an existing file. Returns the path as text.
        """
        stamp = Path("checkpoints") / time.strftime(f"{self.model_name}_%m%d_%H_%M_%S")
        path = Path(name) if name else next(one for one in numbered(stamp, ".pth") if not one.exists())
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"model": self.model_name, "info": self.info, "weights": self.state_dict(), **state}
        write_checkpoint(content, path, previous)
        return str(path)

    def load(
        self, path: str | Path, partly: bool = False, content: dict[str, Any] | None = None, least: float = 0.9
    ) -> dict[str, Any]:
        """Load the weights of a file written by `save`, or of a plain state dict. Returns the file's whole content.

        Args:
            partly: load only what fits by name and shape, and print the rest; half of the file's weights have to fit.
            content: the result of read_checkpoint(path), if there is one already.
            least: with `partly`, the share of the model's weights besides its head that has to be loaded.

        Raises UserError when the file is missing, damaged, no checkpoint or of another model.
        """
        content = content or read_checkpoint(path)
        info = content.get("info", {})  # with `partly` the head may be for other classes than the file's
        if content.get("model") == self.model_name:
            self.resize(info.get("channels", {}))
        own, weights = self.state_dict(), collections.OrderedDict(fitting_weights(self, content, path, partly, least))
        if weights.keys() == own.keys():  # MNASNet asks for the version of its layers; older BatchNorms lack counters
            vars(weights)["_metadata"] = vars(own)["_metadata"]
        self.load_state_dict(weights, strict=not partly)
        self.info = self.info | {name: value for name, value in info.items() if not partly or name == "origin"}
        return content
