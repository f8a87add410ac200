"""Which run to resume, and with which options."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from utils import UserError
from utils.deploy.exported import is_exported, read_exported
from utils.files import lock
from utils.notices import counted, note, warn
from utils.options.kinds import dashed
from utils.options.options import read_yaml
from utils.train import auto, batch_size, processes
from utils.train.processes import World

from . import pretrained, record
from .checkpoint_file import read_checkpoint
from .crash import prepare
from .preflight import check_folder
from .run import is_run, like, named_run, places

CHECKPOINTS = "last.pth", "previous.pth"  # the newer one first
PREPARATION = "mean_std", "center_crop", "interpolation"  # of pictures: it stays with the weights
OTHERS = 3  # trained models that are named besides the one that is taken


def find_run(work_dir: str, name: str) -> Path | None:
    """The folder of the run `name` (a path, or a folder's name in work_dir), or for "newest" and "auto" of the newest
    unfinished run that no process works on. Where there is none that is None for "auto", else a UserError."""
    if name not in ("newest", "auto"):
        for folder in places(work_dir, name):
            if is_run(folder) and any((folder / file).is_file() for file in CHECKPOINTS):
                return folder
        raise UserError(
            f"--resume={name}: no such run (a folder with config.yaml and last.pth or previous.pth), also not in "
            f"{work_dir}{like(name, [path.parent.name for path in Path(work_dir).glob('*/config.yaml')], work_dir)}"
        )
    busy, foreign, free = [], [], []
    paths = [path for file in CHECKPOINTS for path in Path(work_dir).glob(f"*/{file}") if is_run(path.parent)]
    for folder in dict.fromkeys(path.parent for path in sorted(paths, key=written, reverse=True)):
        try:
            with open(folder / "lock", "a+") as file:
                file.seek(0)
                if not lock(file):
                    busy.append(folder.name)
                elif file.read() not in ("finished", "failed"):
                    free.append(folder)
        except PermissionError:  # another user's, in a folder that they share
            foreign.append(folder.name)
        except OSError:  # of others than the newest it does not matter
            if not free:
                raise
    if free:
        if len(free) > 1:
            others = some(free[1:])
            note(f"{free[0].name} is the newest of {len(free)} unfinished runs, --resume= takes another one: {others}")
        return free[0]
    if name == "auto":
        if busy:
            note(f"{', '.join(busy)} in {work_dir} is being trained by another process: a new run begins")
        return None
    others = f" but {', '.join(busy)}, which another process is training" if busy else ""
    others += f" but {counted(len(foreign), 'run')} that this user may not change" if foreign else ""
    raise UserError(
        f"--resume: {work_dir} holds no unfinished run{others}; a finished one has to be named: --resume=<run>"
    )


def some(folders: list[Path]) -> str:
    """The names of the first folders."""
    return ", ".join([path.name for path in folders[:OTHERS]] + ["..."] * (len(folders) > OTHERS))


def written(path: Path) -> float:
    """When a file was written, in seconds; 0 when a training has just renamed it."""
    try:
        return os.path.getmtime(path)
    except FileNotFoundError:
        return 0


def find_launched(work_dir: str) -> str:
    """The folder of the run that this torchrun began before it restarted its processes; "" for none."""
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) == 0:
        return ""
    for path in sorted(Path(work_dir).glob("*/config.yaml"), key=written, reverse=True):
        with contextlib.suppress(OSError, UserError, LookupError, TypeError, AttributeError):
            if read_yaml(path, ())["run"][-1]["launch"] == processes.launch_id():
                return "" if (path.parent / "lock").read_text() == "failed" else str(path.parent)
    return ""


def find_best(given: Any) -> tuple[Path, str]:
    """(the checkpoint that the options name, or the newest best.pth under work_dir; words that say what else there is).
    Raises UserError when there is none."""
    if given.run and given.load_model_path:
        raise UserError("--run and --load-model-path both name a model: give one of them")
    if given.load_model_path:
        return best_of_folder(given.load_model_path, given.work_dir), ""
    found = sorted(Path(given.work_dir).glob("*/best.pth"), key=written, reverse=True)
    if given.run:
        for folder in places(given.work_dir, given.run):
            if (folder / "best.pth").is_file():
                return folder / "best.pth", ""
            if is_run(folder):
                raise UserError(f"--run={given.run}: it has finished no epoch: --resume={given.run} continues it")
        hint = like(given.run, [path.parent.name for path in found], given.work_dir)
        raise UserError(f"--run={given.run}: no such run with a best.pth, also not in {given.work_dir}{hint}")
    if not found:
        deeper = next(map(str, Path(given.work_dir).glob("*/*/best.pth")), "")  # of folds
        hint = (
            f"--run={Path(deeper).parent} takes one that lies deeper" if deeper else "train one, or name it with --run"
        )
        hint += "" if deeper or given.command == "card" else " or --load-model-path"
        raise UserError(f"no trained model: {given.work_dir}/*/best.pth does not exist; {hint}")
    others = some([path.parent for path in found[1:]])
    return found[0], f"; it is the newest of {len(found)} models, --run= takes another one: {others}" if others else ""


def best_of_folder(path: str, work_dir: str) -> Any:
    """A checkpoint's path or address as it is; of a run's folder, or its name in work_dir, the best.pth. Raises
    UserError for a folder of runs."""
    folder = next((one for one in (Path(path), Path(work_dir, path)) if one.is_dir()), None)
    if Path(path).is_file() or not folder:
        return path
    inside = sorted(folder.glob("*/best.pth"), key=written, reverse=True)
    if inside and not (folder / "best.pth").is_file():
        names = ", ".join(str(one.parent) for one in inside[:OTHERS])
        raise UserError(f"{path} is a folder of runs, name one: {names}")
    return folder / "best.pth"


def resolve(given: Any, world: World) -> tuple[Any, dict[str, Any] | None]:
    """(the options of a training, the content of the checkpoint that it starts from or None).

    The options, a DefaultConfig, are those given; with --resume those of that run, with what is given now on top, and
    `resume` is its folder. Raises UserError for an option that is fixed on resume, a folder that cannot be written, and
    a checkpoint that cannot be used: now, and not when the pictures are read.
    """
    if given.pdb and world.size > 1:
        raise UserError("--pdb is for one process: leave it or torchrun out")
    if given.step and (given.resume or world.size > 1):
        raise UserError("--step makes one step again, in one process: leave --resume, --processes and torchrun out")
    if given.replay:
        given.assign(replay=str(world.on_main(named_run, given.work_dir, given.replay, "--replay=")))
    if given.step:
        return prepare(resumed(given, Path(given.replay)), Path(given.replay), CHECKPOINTS), None
    if given.replay:
        given.assign(**auto.of_run(given, options_of_run(Path(given.replay), given.root()).values()))
    if launched := world.on_main(find_launched, given.work_dir):  # torchrun has restarted these processes
        given = given.root().load({"resume": launched}, command=given.command)
    folder = world.on_main(find_run, given.work_dir, given.resume) if given.resume else None
    opt = resumed(given, folder) if folder else given
    opt.assign(resume=str(folder) if folder else None)
    opt.check()  # with --resume=auto, which has found none, what may have belonged to a run
    if folder and (changed := world.on_main(record.changed_code, folder)):
        note(f"since the last start of {folder} this code has changed: {changed}")
    copy = "it may be another user's: a new run can start from its best.pth, with --load-model-path"
    check_folder(opt.resume or opt.work_dir, copy if opt.resume else "change that, or name another --work-dir")
    if opt.resume or not (opt.load_model_path or given.pretrained):
        return opt, None
    if opt.load_model_path and opt.pretrained:
        raise UserError("--pretrained and --load-model-path both name weights to start from: give one of them")
    origin: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    if opt.pretrained:
        path, origin["origin"], expected = pretrained.find(opt.model, opt.pretrained.partition("  # ")[0])
        source = "sha256 {sha256}, from {source}, {licence}".format(**origin["origin"])
        opt.assign(pretrained=f"{path}  # {source}")  # printed, and kept in config.yaml and in checkpoints
    else:
        opt.assign(load_model_path=str(path := best_of_folder(opt.load_model_path, opt.work_dir)))
    content = read_checkpoint(path)
    info = content.get("info", {})
    expected |= {name: value for name, value in info.get("config", {}).items() if name in PREPARATION}
    opt.assign(**{name: value for name, value in expected.items() if name not in opt.explicit})
    start: dict[str, Any] = {name: content[name] for name in ("model", "weights", "skipped") if name in content}
    return opt, {**start, "path": str(path), "info": info | origin}


def resumed(given: Any, folder: Path) -> Any:
    """The options of the run in `folder`, with what is given now on top. Raises UserError for what is fixed."""
    command = "--step" if given.step else "--resume"
    if given.config and given.resume != "auto":
        raise UserError(f"{command} takes the run's own options: leave --config out")
    started = options_of_run(folder, given.root())
    given.assign(**auto.of_run(given, started.values()))
    wanted = given.overrides()
    if given.step:
        started.assign(replay=given.replay)  # it names the run itself
    for name, kind in given.options().items():
        before = getattr(started, name)
        if name in wanted and not kind.free and wanted[name] != before:
            raise UserError(
                f"{command}: {name}={before} is fixed on resume and cannot become {wanted[name]}; "
                f"{new_start(folder, command)}"
            )
    opt = given.over(started.to_dict())
    if opt.max_epoch < started.max_epoch:
        raise UserError(
            f"--max-epoch={opt.max_epoch}: a resumed run may get more epochs than its {started.max_epoch}, not fewer"
        )
    return opt


def new_start(folder: Path, command: str) -> str:
    """How a new training gets other options than those of the run, or of the folds, in a folder."""
    weights = next((folder / file for file in CHECKPOINTS if (folder / file).is_file()), None)
    if not weights:
        return f"leave {command} out, and a new training begins"
    return f"a new run can start from its weights: --load-model-path={weights} without {command}"


def options_of_run(folder: Path, root: Any) -> Any:
    """The options, of the class `root`, that a run began with: those of its config.yaml, or where that is lost those of
    its checkpoint. Raises UserError when both are lost."""
    path = folder / "config.yaml"
    with contextlib.suppress(UserError):
        record = read_yaml(path, ())
        if "run" in record:  # its last lines: it is whole
            return root().over(record)
    for name in CHECKPOINTS:
        with contextlib.suppress(UserError, LookupError, TypeError):
            options = root().over(read_checkpoint(folder / name)["info"]["config"])
            warn(f"{path} is lost or damaged, {name} has the options")
            return options
    raise UserError(f"{path} is lost or damaged, and so are {' and '.join(CHECKPOINTS)} beside it")


def trained(given: Any) -> tuple[Any, dict[str, Any]]:
    """(options, content) of the checkpoint that the options name, or of the newest best one, which a line names. The
    options, a DefaultConfig, are those it was trained with, except what is given now. Raises UserError."""
    path, others = find_best(given)
    if is_exported(path) and given.command in ("export", "prune", "doctor"):
        raise UserError(f"{path} is an exported model, which val, test and predict take: give {given.command} its .pth")
    content = read_exported(path) if is_exported(path) else read_checkpoint(path)
    saved = {"model": content.get("model", given.model), **content.get("info", {}).get("config", {})}
    if "train_data_root" in given.asked:
        saved.pop("val_data_root", None)  # other data: its own share is measured
    # A model trained in 16 bits is measured in those that this machine is fast in.
    saved["precision"] = "fp32" if saved.get("precision", "fp32") == "fp32" else "auto"
    if given.batch_size == "auto":  # a training's alone: here it is that of its training
        given.assign(batch_size=saved.get("batch_size", batch_size.usual(given)))
    opt = given.over(saved)
    opt.assign(load_model_path=str(path))
    metrics = {name: value for name, value in content.get("metrics", {}).items() if name.startswith(("epoch", "val_"))}
    print(f"using {path}" + "".join(f", {name} {value:.4g}" for name, value in metrics.items()) + others)
    return opt, content


def classes_of(opt: Any, info: dict[str, Any], default: Sequence[str]) -> Sequence[str]:
    """The classes of a trained model: those of its checkpoint's `info`, or where it names none the data set's own, its
    `default`; a note says what is taken for granted. Raises UserError where there are none either."""
    classes, path = info.get("classes") or default, opt.load_model_path
    if not classes:
        raise UserError(
            f"{path} names no classes, and --dataset={opt.dataset} has none of its own: load it into the model, set "
            'model.info["classes"] to their names, in order, and model.save(FILE); then --load-model-path=FILE'
        )
    taken = [] if info.get("classes") else [f"classes {', '.join(classes)}"]
    if not info.get("config"):
        names = [name for name in ("dataset", "image_size") if name not in opt.asked]
        taken += [f"{dashed(name)}={getattr(opt, name)}" for name in names]
    if taken:
        note(f"{path} does not say all that it was trained with; taken for granted: {'; '.join(taken)}")
    return classes


def channels_of(folder: str | None) -> dict[str, list[int]]:
    """The channels of a pruned model's layers, see channels.changed, that the checkpoints of a run's folder name; {} of
    another model, and for None. No weights are read: that is left to Checkpoint.restore, with its complaints."""
    for name in CHECKPOINTS if folder else ():
        with contextlib.suppress(Exception):  # of a damaged file torch raises anything
            content: Any = torch.load(Path(str(folder), name), map_location="cpu", weights_only=True, mmap=True)
            return dict(content["info"].get("channels", {}))
    return {}
