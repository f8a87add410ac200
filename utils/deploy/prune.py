"""The command prune: a trained model with fewer channels, measured before and after."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from utils import UserError
from utils.files import check_writable, megabytes
from utils.metrics.meters import named
from utils.notices import command, counted, warn
from utils.run.channels import changed, channels
from utils.train.device import one_batch
from utils.watch.model_summary import summary, with_prefix

from .pruner import Pruner
from .timing import median_times

BATCHES = 1, 32  # sizes that are timed
STEPS = 16  # --speedup tries ratios in these parts
NAMED = 6  # layers that are listed


def prune(program: ModuleType, opt: Any) -> None:
    """Write a checkpoint with fewer channels, --output or pruned.pth beside it, and print what it was and what it is:
    size, work, time on this machine, accuracy before fine-tuning. Raises UserError.

    program: main.py's module.
    """
    if {"ratio", "speedup"} <= opt.asked:
        raise UserError("--speedup finds the ratio: leave --ratio out, or --speedup")
    opt, model, device = program.load_trained(opt)
    if model.task in ("detection", "keypoints"):
        raise UserError(f"prune does not take {model.model_name}: its number of boxes varies")
    path = Path(opt.output or Path(opt.load_model_path).with_name("pruned.pth"))
    if path.suffix != ".pth":
        raise UserError(f"--output={path} is for a checkpoint: a name that ends in .pth")
    if opt.output and path.exists():
        raise UserError(f"--output={path} is there already: name another file")
    check_writable(path, "--output")
    val_data = program.make_data(opt, "val", device, model.info["classes"])
    program.refuse_broken(val_data)
    input = one_batch(val_data, [number % len(val_data) for number in range(BATCHES[-1])], device)[0]
    pruned = cut(Pruner(model, input[:2], opt.importance), opt, input)
    built = program.make_model(opt, model.info["classes"]).to(device)
    wanted = changed(channels(pruned), channels(built))
    if channels(pruned) == channels(model):
        raise UserError(f"nothing of {model.model_name} is pruned, no layer has channels to spare: raise the ratio")
    pruned.info = {**model.info, "channels": wanted}
    built.load(path, content={"model": pruned.model_name, "info": pruned.info, "weights": pruned.state_dict()})
    if not same(pruned, built.eval(), input[:2]):
        raise UserError(f"{model.model_name} cannot be pruned: loaded again it computes something else")
    loader = program.make_val_loader(opt, model, val_data, device)
    meters = [program.val(one, loader)[0].summary() for one in (model, pruned)]
    report(model, pruned, input, meters, opt.speedup)
    pruned.save(path, metrics=named("val", meters[1]))
    print(f"wrote {path}; fine-tune it with: {fine_tuning(opt, path)}")


def cut(pruner: Pruner, opt: Any, input: torch.Tensor) -> Any:
    """The pruned model, by --ratio or --speedup; a line says what was kept as it is. input: the batch that is timed.
    Raises UserError where a layer would be empty, or no ratio makes it as fast."""
    if opt.speedup:
        pruned = fast_enough(pruner, opt.speedup, input[:1])
    elif empty := pruner.empty(opt.ratio):
        raise UserError(f"--ratio={opt.ratio:g} leaves {listed(empty)} without a channel: give less")
    else:
        pruned = pruner(opt.ratio)
    if pruner.kept:
        print(f"kept as they are, because they depend on layers of other kinds: {listed(pruner.kept)}")
    return pruned


def fast_enough(pruner: Pruner, wanted: float, input: torch.Tensor) -> Any:
    """The copy pruned least that predicts `input` that many times as fast, by bisection of the ratio. Raises
    UserError."""
    low, high, found, reached = 0, STEPS, None, 0.0
    while high - low > 1:
        step = (low + high) // 2
        pruned = pruner(step / STEPS)
        before, after = latencies([pruner.module, pruned], input)
        print(f"ratio {step / STEPS:.4g}: {before / after:.2f} times as fast on one sample")
        reached = max(reached, before / after)
        if before / after >= wanted:
            high, found = step, pruned
        else:
            low = step
    if found is None:
        raise UserError(f"--speedup={wanted:g} is not reached by pruning, at most {reached:.2f}: give less")
    return found


def latencies(models: Sequence[Any], input: torch.Tensor) -> list[float]:
    """The median time in milliseconds of a prediction by each model, in its precision."""

    def computed(model: Any, input: torch.Tensor) -> Any:
        with model.autocast():
            return model.predict(input)

    with torch.inference_mode():
        return median_times([partial(computed, model) for model in models], input)


def report(
    model: Any, pruned: Any, input: torch.Tensor, meters: Sequence[dict[str, float]], wanted: float | None
) -> None:
    """Print the table of both models. meters: the measures of both on the validation part, the most telling first;
    wanted: as many times as fast one sample was to be."""
    both = model, pruned
    sizes = [summary(one, input[:1]) for one in both]
    weights = [sum(one.nbytes for one in each.state_dict().values()) for each in both]
    times = {size: latencies(both, input[:size]) for size in BATCHES}
    measure = next(iter(meters[0]))
    rows: list[tuple[str, ...]] = [("", "before", "after", "")]
    rows.append(("parameters", *(f"{one['parameters']:,}" for one in sizes), ""))
    rows.append(("FLOPs of one", *(with_prefix(one["flops"]) for one in sizes), ""))
    rows.append(("weights", *(megabytes(one) for one in weights), ""))
    for size, (before, after) in times.items():
        rows.append((f"batch of {size}", f"{before:.1f} ms", f"{after:.1f} ms", f"{before / after:.2f} times as fast"))
    rows.append((f"val_{measure}", *(f"{one[measure]:.4g}" for one in meters), "before fine-tuning"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for name, *cells, note in rows:
        numbers = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        print(f"{name.ljust(widths[0])}  {numbers}  {note}".rstrip())
    if wanted and times[1][0] < wanted * times[1][1]:
        warn(f"measured once more it is not {wanted:g} times as fast: prune more, or when the machine is idle")
    if slow := [size for size, (before, after) in times.items() if after >= before]:
        print(f"it is not faster here with a batch of {' or '.join(map(str, slow))}")


@torch.no_grad()
def same(one: Any, other: Any, input: torch.Tensor) -> bool:
    """Whether two models predict the same of a batch, bit for bit."""
    return torch.equal(one.predict(input), other.predict(input))


def fine_tuning(opt: Any, path: Path) -> str:
    """The command line that fine-tunes the pruned checkpoint, with the options of the run that it is from."""
    config = Path(opt.load_model_path).with_name("config.yaml")
    options = [f"--config={config}"] if config.is_file() else [f"--model={opt.model}", f"--dataset={opt.dataset}"]
    options += ["--pretrained=None"] * bool(opt.pretrained) + ["--finetune=False"] * bool(opt.finetune)
    return command("train", *options, f"--load-model-path={path}")


def listed(names: Sequence[str]) -> str:
    """The first of some layers' names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {counted(more, 'more', 'more')}" if more > 0 else "")
