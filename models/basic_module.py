"""The model contract: what the loop in main.py asks of a model, and how models are saved and loaded."""

import time
from pathlib import Path

import torch
from torch import nn

from .checkpoint import read_checkpoint, write_checkpoint
from .errors import ModelError
from .losses import Criterion


class BasicModule(nn.Module):
    """A model: write `__init__(num_classes)` and `forward(x)` as in any nn.Module; the rest is here to override.

    Options of config.py that the constructor names besides (image_size, width, one of your own) are passed to it.

    Attributes:
        task: what it predicts, see BaseData.
        head: name of the child that turns features into scores; fine-tuning trains it alone.
        val_loss: whether `objective` gives losses in eval mode too.
        loss: name of the loss that the model learns with when none is asked for, see losses.py.
        inner: name of the child that is another library's whole model, or "". Its own checkpoints fit too.
        info: plain values that travel with the weights (class names, preparation, options), set by who trains it.
        precision: fp32, bf16 or fp16, in which `autocast` lets it compute.
        criterion: (score, target) -> {name: scalar loss}, used by `objective`.
    """

    task = "classification"
    head = ""
    val_loss = True
    loss = "cross_entropy"
    inner = ""
    precision = "fp32"

    def __init__(self):
        super().__init__()
        self.model_name = type(self).__name__
        self.info = {}
        self.set_criterion()

    def set_criterion(self, names=None, weight=None):
        """Learn with these losses (see losses.Criterion), or with the model's own one when names is None."""
        self.criterion = Criterion(names or self.loss, weight)

    def objective(self, input, target):
        """One step's work, of training or validation: input and target of a prepared batch -> (score, losses).

        score is what `decode` takes, here [N, C]; losses is {name: scalar}, and the loop minimises its sum.
        """
        score = self(input)
        return score, self.criterion(score, target)

    def decode(self, score):
        """Scores [N, C, ...] -> predictions, here probabilities: float32, the classes sum to 1."""
        return score.float().softmax(dim=1)

    def autocast(self):
        """The context in which objective and predict run: convolutions and products in `precision`, what needs its
        digits (softmax, losses) in float32. Weights and gradients are float32 always."""
        types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        device = next(self.parameters()).device.type
        return torch.autocast(device, types[self.precision], enabled=self.precision != "fp32")

    def predict(self, input):
        """A prepared batch -> predictions, see decode."""
        return self.decode(self(input))

    def get_optimizer(self, name, lr, weight_decay, momentum):
        """The torch.optim class `name` over the trainable parameters; weights decay, biases and norms do not.

        Fused: a kernel for all parameters, which can also skip a step without the host's being asked."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
        ]
        extra = {"momentum": momentum} if name == "SGD" else {"betas": (momentum, 0.999)}
        optimizer = getattr(torch.optim, name)(groups, lr=lr, fused=True, **extra)
        if extra.get("momentum"):  # else torch leaves what was in memory there when the first step is skipped
            for parameter in trainable:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer

    def freeze_body(self):
        """Leave only the head trainable (fine-tuning). Raises ModelError when the class does not name its head."""
        if not self.head:
            raise ModelError(f"{self.model_name} has no head to fine-tune: set `head` in its class to a child's name")
        for name, parameter in self.named_parameters():
            parameter.requires_grad = name.startswith(f"{self.head}.")

    def train(self, mode=True):
        """Switch to training mode. A frozen part stays in eval mode, so that its BatchNorm statistics stay too."""
        super().train(mode)
        for module in self.modules():
            parameters = list(module.parameters())
            if parameters and not any(p.requires_grad for p in parameters):
                for part in module.modules():  # not module.eval(): that of a BasicModule would come back here
                    part.training = False
        return self

    def save(self, name=None, previous=None, **state):
        """Write the weights, `info` and whatever plain state is given (optimizer, ...), see write_checkpoint.

        Without a name it is checkpoints/<Model>_<mmdd_HH_MM_SS>.pth, never one that exists. Returns the path as text.
        """
        path = (
            Path(name) if name else unused(Path("checkpoints") / time.strftime(f"{self.model_name}_%m%d_%H_%M_%S.pth"))
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"model": self.model_name, "info": self.info, "weights": self.state_dict(), **state}
        write_checkpoint(content, path, previous)
        return str(path)

    def load(self, path, partly=False):
        """Load the weights of a file written by `save`, or of a plain state dict. Returns all that the file holds.

        With partly=True only what fits by name and shape is taken, and a line says what was not: a head for other
        classes, say. At least half of the file's weights have to fit.
        Raises ModelError when the file is missing, damaged, not ours or of another model.
        """
        content = read_checkpoint(path)
        weights = {name.removeprefix("module."): value for name, value in content["weights"].items()}
        own = self.state_dict()
        if self.inner and not any(name.startswith(f"{self.inner}.") for name in weights):
            weights = {f"{self.inner}.{name}": value for name, value in weights.items()}
        fitting = {n: value for n, value in weights.items() if n in own and value.shape == own[n].shape}
        wrong = [name for name in {**own, **weights} if name not in fitting]
        if wrong and not (partly and 2 * len(fitting) >= len(weights)):
            kept = content.get("model", self.model_name)
            if kept != self.model_name:
                raise ModelError(f"{path} holds a {kept}, not a {self.model_name}: give --model={kept}")
            classes = content.get("info", {}).get("classes")
            hint = f" (it knows the classes {', '.join(classes)})" if classes else ""
            raise ModelError(
                f"{path} does not fit {self.model_name}{hint}: {len(wrong)} of its weights are missing, unknown or "
                f"of another shape, the first is {wrong[0]}"
            )
        known, asked = content.get("info", {}).get("classes"), self.info.get("classes")
        if known and asked and known != asked and not wrong:
            print(f"{path}: all weights taken, the head too, though its classes were {', '.join(known)}")
        self.load_state_dict(fitting, strict=not wrong)
        if wrong:
            dropped, new = ([n for n in wrong if n in names] for names in (weights, own))
            print(f"{path}: {len(fitting)} of {len(weights)} weights taken; dropped: {', '.join(dropped) or 'none'}")
            print(f"  at their initial values: {', '.join(new) or 'none'}")
        return content


def unused(path):
    """`path`, or path with _2, _3, ... before its suffix where that exists already."""
    candidate, count = path, 1
    while candidate.exists():
        count += 1
        candidate = path.with_stem(f"{path.stem}_{count}")
    return candidate
