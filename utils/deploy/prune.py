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
from utils.options.kinds import dashed
from utils.run.channels import changed, channels
from utils.run.checkpoint_file import read_checkpoint
from utils.run.members import is_folds
from utils.run.run import is_run
from utils.runs.table import read_run
from utils.train.device import one_batch
from utils.watch.model_summary import summary, with_prefix

from .pruner import Pruner, widths
from .timing import median_times

BATCHES = 1, 32  # sizes that are timed
STEPS = 16  # --speedup tries ratios in these parts
NAMED = 6  # layers that are listed
TUNING = "max_epoch", "lr", "print_freq"  # options of the fine-tuning


def prune(program: ModuleType, opt: Any) -> None:
    """Write a checkpoint with fewer channels, --output or pruned.pth beside it, and print what it was and what it is:
    size, work, time on this machine, accuracy before fine-tuning; with --iterative in turns with that. Raises
    UserError.

    program: main.py's module.
    """
    if {"ratio", "speedup"} <= opt.asked:
        raise UserError("--speedup finds the ratio: leave --ratio out, or --speedup")
    if not opt.iterative and (unread := [dashed(name) for name in TUNING if name in opt.asked]):
        raise UserError(f"{' and '.join(unread)}: prune trains with --iterative alone: leave it out, or give that")
    given = opt
    opt, model, device = program.load_trained(given)
    if model.task in ("detection", "keypoints"):
        raise UserError(f"prune does not take {model.model_name}: its number of boxes varies")
    path = Path(opt.output or Path(opt.load_model_path).with_name("pruned.pth"))
    if path.suffix != ".pth":
        raise UserError(f"--output={path} is for a checkpoint: a name that ends in .pth")
    if opt.output and path.exists():
        raise UserError(f"--output={path} is there already: name another file")
    check_writable(path, "--output")
    if opt.iterative:
        in_turns(program, given, opt, model, path)
    else:
        write_pruned(program, opt, model, device, path)
        options = [f"{dashed(name)}={value}" for name, value in fine_tuning(opt, path).items()]
        print(f"wrote {path}; fine-tune it with: {command('train', *options)}")


def in_turns(program: ModuleType, given: Any, opt: Any, model: Any, path: Path) -> None:
    """Prune and fine-tune --iterative times, so that the last turn leaves what was asked for, and print the table of
    the first and the last model. Turn 2 writes pruned_2.pth, and a run; the same command goes on where it was stopped.

    given, opt: the options before and after `model`, the first one, was loaded.
    """
    first, sizes, turns = opt, widths(model), opt.iterative
    work_dir = (fine_tuning(first, path) | shared_options(given)).get("work_dir", first.work_dir)
    what = {name: getattr(opt, name) for name in ("load_model_path", "importance", "ratio", "speedup", "iterative")}
    for turn in range(1, turns + 1):
        file = path.with_name(f"{path.stem}_{turn}.pth")
        print(f"turn {turn} of {turns}:")
        if file.exists():
            if read_checkpoint(file).get("info", {}).get("pruned") != what:
                raise UserError(f"{file} is there already, and not of this command: name another file with --output")
        else:
            opt, latest, device = program.load_trained(given)
            opt.assign(ratio=1 - (1 - first.ratio) ** (turn / turns))
            opt.assign(speedup=first.speedup and first.speedup ** (1 / turns))
            write_pruned(program, opt, latest, device, file, sizes, what)
        best = tuned(program, file, fine_tuning(opt, file) | shared_options(given) | {"work_dir": work_dir}, work_dir)
        given = given.root().load({"load_model_path": str(best)}, given, "prune")
        given.assign(run=None)
    opt, last, device = program.load_trained(given)
    val_data = program.make_data(opt, "val", device, last.info["classes"])
    print(f"before, and after {counted(turns, 'turn')}:")
    compare(program, opt, (model, last), val_data, device)
    print(f"the pruned and fine-tuned model is {opt.load_model_path}")


def tuned(program: ModuleType, file: Path, options: dict[str, Any], work_dir: str) -> Path:
    """The best.pth of the run that fine-tunes `file`: of a new one, or of that which is there; it goes on if it is not
    finished."""
    before = begun(file, work_dir)
    if before is None or before.state != "finished":
        program.train(**({"resume": str(before.folder)} if before else options))
    found = begun(file, work_dir)
    assert found is not None  # it was trained just now
    return found.folder / "best.pth"


def begun(file: Path, work_dir: str) -> Any:
    """The newest run in work_dir, as runs/table.py finds it, that started from `file`; None where there is none."""
    runs = [read_run(path) for path in Path(work_dir).glob("*") if is_run(path)]
    started = [one for one in runs if Path(str(one.options.get("load_model_path"))).absolute() == file.absolute()]
    able = [one for one in started if one.state != "failed"]
    return max(able, key=lambda one: (one.folder / "config.yaml").stat().st_mtime, default=None)


def write_pruned(
    program: ModuleType,
    opt: Any,
    model: Any,
    device: torch.device,
    path: Path,
    sizes: dict[str, int] | None = None,
    what: Any = None,
) -> None:
    """Prune `model` as `opt` says, print the table and write the checkpoint. sizes: see Pruner; what: kept in the
    checkpoint's info, to know it by."""
    val_data = program.make_data(opt, "val", device, model.info["classes"])
    program.refuse_broken(val_data)
    input = timed_batch(val_data, device)
    pruned = cut(Pruner(model, input[:2], opt.importance, sizes), opt, input)
    built = program.make_model(opt, model.info["classes"]).to(device)
    wanted = changed(channels(pruned), channels(built))
    if channels(pruned) == channels(model):
        raise UserError(f"nothing of {model.model_name} is pruned, no layer has channels to spare: raise the ratio")
    pruned.info = {**model.info, "channels": wanted, "pruned": what}
    built.load(path, content={"model": pruned.model_name, "info": pruned.info, "weights": pruned.state_dict()})
    if not same(pruned, built.eval(), input[:2]):
        raise UserError(f"{model.model_name} cannot be pruned: loaded again it computes something else")
    measures = compare(program, opt, (model, pruned), val_data, device, "before fine-tuning")
    pruned.save(path, metrics=named("val", measures))


def timed_batch(val_data: Any, device: torch.device) -> torch.Tensor:
    """Validation samples, prepared, as many as the largest size that is timed."""
    return one_batch(val_data, [number % len(val_data) for number in range(BATCHES[-1])], device)[0]


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


def compare(
    program: ModuleType, opt: Any, both: tuple[Any, Any], val_data: Any, device: torch.device, note: str = ""
) -> dict[str, float]:
    """Print the table of a model before and after. Returns the measures of the second, the most telling first.

    note: what is to be known of its measure.
    """
    loader = program.make_val_loader(opt, both[0], val_data, device)
    meters = [program.val(one, loader)[0].summary() for one in both]
    input = timed_batch(val_data, device)
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
    rows.append((f"val_{measure}", *(f"{one[measure]:.4g}" for one in meters), note))
    columns = [max(len(row[column]) for row in rows) for column in range(3)]
    for name, *cells, remark in rows:
        numbers = "  ".join(cell.rjust(column) for cell, column in zip(cells, columns[1:], strict=True))
        print(f"{name.ljust(columns[0])}  {numbers}  {remark}".rstrip())
    if opt.speedup and times[1][0] < opt.speedup * times[1][1]:
        warn(f"measured once more it is not {opt.speedup:.3g} times as fast: prune more, or when the machine is idle")
    if slow := [size for size, (before, after) in times.items() if after >= before]:
        print(f"it is not faster here with a batch of {' or '.join(map(str, slow))}")
    return meters[1]


@torch.no_grad()
def same(one: Any, other: Any, input: torch.Tensor) -> bool:
    """Whether two models predict the same of a batch, bit for bit."""
    return torch.equal(one.predict(input), other.predict(input))


def fine_tuning(opt: Any, path: Path) -> dict[str, Any]:
    """The options of a training that fine-tunes the pruned checkpoint `path`: those of the run that it is from. Where
    that is a fold's, the training keeps its division of the data, and gets its folder beside the folder of folds."""
    config = Path(opt.load_model_path).with_name("config.yaml")
    options = {"config": str(config)} if config.is_file() else {"model": opt.model, "dataset": opt.dataset}
    folder = config.absolute().parent.parent
    options |= {"work_dir": str(folder.parent)} if is_folds(folder) else {}
    options |= {"pretrained": None} if opt.pretrained else {}
    options |= {"finetune": False} if opt.finetune else {}
    return options | {"load_model_path": str(path)}


def shared_options(given: Any) -> dict[str, Any]:
    """Those of the command's own options that are its trainings', too."""
    both = {name for name, kind in given.options().items() if "train" in kind.commands} - {"load_model_path"}
    return {name: getattr(given, name) for name in given.asked & both}


def listed(names: Sequence[str]) -> str:
    """The first of some layers' names, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {counted(more, 'more', 'more')}" if more > 0 else "")
