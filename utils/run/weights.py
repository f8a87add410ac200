"""Which weights of a checkpoint fit a model: by name and shape, whatever stands before the names."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from utils import UserError

NAMED = 8  # weights that are listed
COUNTER = "num_batches_tracked"  # of a BatchNorm; PyTorch has it since 0.4.1, and fills it in where it is missing
# Names of today for older ones: (pattern, replacement).
RENAMED: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"(?<![^.])(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.", ""),  # wrappers within a model
    (r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),  # DenseNet before PyTorch 0.4
    (r"\.mlp\.linear_([12])\.", lambda old: f".mlp.{3 * int(old[1]) - 3}."),  # torchvision before 0.13, as all below
    (r"((?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
    (r"(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2"),
    (r"mask_head\.mask_fcn(\d)\.", lambda old: f"mask_head.{int(old[1]) - 1}.0."),
)

# Of the package efficientnet_pytorch, under timm's names; a block without _expand_conv has the second ones.
TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
BLOCK = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
BLOCK |= {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand", "_project_conv": "conv_pwl", "_bn2": "bn3"}
STAGE = r"blocks\.(\d+)\.(\d+)\."
FIRST_BLOCK = BLOCK | {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def modern(name: str) -> str:
    """A weight's name, or today's name of an old one."""
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def named_as_timm(weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of an EfficientNet as efficientnet_pytorch names them, under timm's names, which number the blocks
    within their stages as the model's state dict `own` does; others keep their names."""
    stages = sorted({(int(found[1]), int(found[2])) for name in own if (found := re.search(STAGE, name))})
    wide = {found[1] for name in weights if (found := re.search(r"_blocks\.(\d+)\._expand_conv\.", name))}

    def renamed(old: re.Match[str]) -> str:
        if not old[1]:
            return f"{TOP.get(old[2], old[2])}."
        stage = stages[int(old[1])] if int(old[1]) < len(stages) else ("", "")
        return f"blocks.{stage[0]}.{stage[1]}.{(BLOCK if old[1] in wide else FIRST_BLOCK).get(old[2], old[2])}."

    return {
        re.sub(r"(?<![^.])(?:_blocks\.(\d+)\.)?(_[a-z]+\w*)\.", renamed, name): one for name, one in weights.items()
    }


def fits(value: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether a weight can become a model's: of its shape, and no quantised integers for numbers."""
    return value.shape == own.shape and (value.is_floating_point() or not own.is_floating_point())


def aligned(
    weights: dict[str, torch.Tensor], own: dict[str, torch.Tensor], inner: str
) -> tuple[dict[str, torch.Tensor], str, list[str]]:
    """(the weights under the model's names, what stood before these in the file, what else stands there before weights
    that fit as well).

    The beginning of the names (module., model., state_dict.module.backbone., ...) is the one without which most of them
    fit `own`, the model's state dict: by the model's names, or without `inner` before these. Of equal ones the first in
    the file is taken, moving averages last.
    """
    places = ["", f"{inner}."] if inner else [""]
    forms = [weights, {modern(name): value for name, value in weights.items()}, named_as_timm(weights, own)]
    counts: Counter[tuple[int, str, str]] = Counter()
    for form, named in enumerate(forms):
        for name, value in named.items():
            for start in starts(name):
                for place in places:
                    target = own.get(place + name[len(start) :])
                    if target is not None:
                        counts[form, start, place] += 2 if fits(value, target) else 1
    average = re.compile(r"(^|[._])(ema|averaged?|teacher)([._]|\d|$)")
    best = max(counts, key=lambda one: (counts[one], not average.search(one[1])), default=(0, "", places[-1]))
    form, start, place = best
    rivals = [one[1] for one in counts if one[::2] == best[::2] and counts[one] >= 0.9 * counts[best]]
    taken = {place + name[len(start) :]: value for name, value in forms[form].items() if name.startswith(start)}
    return taken, start, [rival for rival in rivals if rival != start]


def starts(name: str) -> Iterator[str]:
    """Everything that may stand before a weight's name: "", "a.", "a.b." of a.b.c"""
    yield ""
    yield from (name[: dot.end()] for dot in re.finditer(r"\.", name))


def fitting_weights(
    module: Any, content: dict[str, Any], path: str | Path, partly: bool, least: float
) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint's content that fit a BasicModule by name and shape; with `partly` a line names those
    that do not. Raises UserError when it does not fit: all weights have to, with `partly` half of the file's, and of
    the model's besides its head the share `least`."""
    own, info = module.state_dict(), content.get("info", {})
    weights, start, rivals = aligned(content["weights"], own, module.inner)
    fitting = {name: value for name, value in weights.items() if name in own and fits(value, own[name])}
    filled = {name for name in own if name.endswith(COUNTER) and f"{name.removesuffix(COUNTER)}running_mean" in fitting}
    wrong = [name for name in {**own, **weights} if name not in fitting and name not in filled]
    if wrong and not (partly and 2 * len(fitting) >= len(weights)):
        kept = content.get("model", module.model_name)
        if kept != module.model_name:
            raise UserError(f"{path} holds a {kept}, not a {module.model_name}: give --model={kept}")
        hint = f" (it knows the classes {', '.join(info['classes'])})" if info.get("classes") else ""
        raise UserError(
            f"{path} does not fit {module.model_name}{hint}: weights are missing, unknown or of another "
            f"shape, {len(wrong)} in all; the first is {wrong[0]}"
        )
    body = [name for name in own if not (module.head and name.startswith(f"{module.head}."))]
    lacking = [name for name in body if name in wrong]
    if len(lacking) > (1 - least) * len(body):
        kept = f", a {content['model']}," if "model" in content else ""
        raise UserError(
            f"{path}{kept} has only {len(body) - len(lacking)} of the {len(body)} weights that {module.model_name} has "
            f"besides its head, {lacking[0]} is missing: give the --model that it is of, or --partly to take them"
        )
    known, asked = info.get("classes"), module.info.get("classes")
    place = f" from {start.rstrip('.')}" if start else ""
    if wrong:
        dropped, missing = (listed([n for n in wrong if n in names]) for names in (weights, own))
        count = f"{len(fitting)} of {len(weights)} weights taken{place}"
        print(f"{path}: {count}; dropped: {dropped}; at their initial values: {missing}")
    elif known and asked and known != asked:
        print(f"{path}: all weights taken, the head too, though its classes were {', '.join(known)}")
    elif "model" not in content:
        print(f"{path}: all {len(weights)} weights taken{place}, the head too, whose classes the file does not name")
    for rival in rivals:
        print(f"  {rival.rstrip('.')} fits as well: {path}#{rival.rstrip('.')} takes that")
    if content.get("skipped"):
        print(f"  not read, as nothing of a file is run: {', '.join(content['skipped'])}")
    return fitting


def listed(names: list[str]) -> str:
    """The first of some names, with commas, and how many more there are."""
    more = f", ... and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED]) or 'none'}{more}"
