"""hearth: train, validate and test a model.

usage: python main.py train|val|test|pack|help [--option=value ...]

  python main.py train --config=Demo                                a first run on pictures it draws itself
  python main.py train --train-data-root=data/train --model=ResNet34 --lr=0.001 --batch-size=32
  python main.py train --resume                                     go on with the run that was stopped last
  python main.py val                                                accuracy of the newest best model
  python main.py test --test-data-root=data/test1                   its predictions, as a Kaggle CSV
  python main.py pack --train-data-root=data/train                  decode its pictures once; train does it too
  touch /tmp/debug                                                  step into the running loop
"""

import contextlib
import inspect
import os
import sys
from pathlib import Path

from utils import UserError, signals

if __name__ == "__main__":
    signals.end_on_signals()

import config
from utils import cli, machine
from utils.schedule import Schedule, draw


def help(**kwargs):
    """Print usage, examples and every option with its default and comment, taken from the config class itself; with
    the options of a schedule (--scheduler=cosine --max-epoch=30), that schedule."""
    opt = config.load(kwargs)
    wanted = {**opt.named_by(Schedule), "lr": opt.lr}
    if wanted.keys() & opt.given:
        print(draw(**wanted))
    else:
        print(f"{__doc__}\n{config.describe()}")


if __name__ == "__main__":
    # The whole command line is checked here, before torch is loaded: a mistake is answered in a fraction of a second.
    command, options = cli.check(sys.argv[1:], ("train", "val", "test", "pack", "help"), config.load)
    if command == "help":
        with cli.one_line_errors(UserError):
            sys.exit(help(**options))

machine.prepare()  # has to come before torch

import fire
import torch
from tqdm import tqdm

import data
import models
from data.base import name_broken, refuse_broken
from data.pack import Pack
from models.basic_module import ModelError
from models.checkpoint import read_checkpoint
from utils import cam, distributed, plots, preflight
from utils.average import Average
from utils.callbacks import History, Pictures, Plots, Progress, plain
from utils.checkpoint import Checkpoint, Follower
from utils.debug import Debugger, terminal
from utils.device import has_gpu, in_parts, pick_precision
from utils.divergence import Divergence
from utils.events import Callbacks
from utils.failure import Failure
from utils.files import check_writable
from utils.loader import make_loader, seed_step, to_device
from utils.meters import LossMeter, named
from utils.model_summary import ModelSummary, largest_batch
from utils.run import CHECKPOINTS, Position, Run, find_launched, find_run, newest_best
from utils.update import Update, compiled
from utils.visualize import Visualizer

machine.loaded()


def train(**kwargs):
    """Train a model. Options: those of config.py."""
    world = distributed.start(config.load(kwargs).use_gpu)
    opt = configure(kwargs, world)
    device = pick_device(opt)
    torch.manual_seed(opt.seed)
    preflight.check_folder(opt.resume or opt.work_dir)

    # step 1: data
    train_data, val_data = build_data(opt, "train", device), build_data(opt, "val", device)
    refuse_broken(train_data, val_data)

    # step 2: model
    model = build_untrained(opt, train_data).to(device, memory_format=torch.channels_last)
    objective = compiled(model.objective) if opt.compile else model.objective

    # step 3: optimizer and learning rate
    train_loader = make_loader(train_data, opt.batch_size, opt.num_workers, opt.seed, device, world.rank, world.size)
    val_size = opt.val_batch_size or largest_batch(model, val_data, max(1, opt.batch_size // world.size))
    val_loader = make_loader(val_data, val_size, opt.num_workers, None, device, world.rank, world.size)
    optimizer = model.get_optimizer(opt.optimizer, opt.lr, opt.weight_decay, opt.momentum)
    schedule = Schedule(optimizer, steps_per_epoch=len(train_loader), **opt.named_by(Schedule))
    update = Update(model, optimizer, world=world, **opt.named_by(Update))
    average = Average(model, update, opt.ema)
    room = opt.named_by(preflight.check_room)
    world.first(lambda: preflight.check_room(opt.resume or opt.work_dir, model, optimizer, **room))

    # step 4: the run's folder, meters, and what watches the run
    folder = opt.resume or world.first(Run.new_folder, opt.work_dir, opt.model)
    run = Run(folder) if world.main else Position(folder)
    loss_meter, train_meter, val_loss = LossMeter(), train_data.meter(), LossMeter()
    parts = {"run": run, "optimizer": optimizer, "schedule": schedule, "update": update, "average": average}
    parts |= {"order": train_loader.batch_sampler, "loss_meter": loss_meter, "train_meter": train_meter}
    callbacks = watchers(opt, world, run, model, parts, train_loader, val_loader)

    # step 5: the loop
    with callbacks:  # from here on the run can be gone on with, wherever it ends
        run.write_config(opt.record())
        for epoch in range(run.epoch, opt.max_epoch):
            callbacks.on_epoch_begin()
            model.train()
            train_loader.batch_sampler.start(epoch, run.batch)
            if run.batch == 0:  # else a resumed epoch goes on counting
                loss_meter.reset()
                train_meter.reset()
            for ii, batch in enumerate(train_loader, start=run.batch):
                callbacks.on_batch_begin()
                schedule.step(epoch * len(train_loader) + ii)
                generator = seed_step(opt.seed, run.step, device, world.rank)
                batch = train_data.prepare(*to_device(batch, device), generator)
                for input, target in update.parts(*batch):  # one, but for --accumulate; anew where memory ran out
                    score = losses = None  # of a part that did not fit: they would fill the memory again
                    with update.attempt():
                        with model.autocast():
                            score, losses = objective(input, target)
                        loss = update.backward(losses, score, target)  # noqa: F841 - for the debugger
                update.step(run.step)
                average.step()
                run.batch, run.step = ii + 1, run.step + 1
                update.report(loss_meter, train_meter)
                if run.step % opt.print_freq == 0:
                    world.merge(train_meter)
                    callbacks.on_train_summary(**loss_meter.summary(), **train_meter.summary())
                callbacks.on_batch_end()

            world.merge(train_meter)
            val_meter, _ = val(average.module, val_loader, callbacks, val_loss, world)
            run.epoch, run.batch = epoch + 1, 0
            metrics = {"epoch": run.epoch, "step": run.step, "lr": schedule.lr, **loss_meter.summary()}
            metrics |= named("train", train_meter.summary()) | named("val", val_meter.summary() | val_loss.summary())
            schedule.epoch_end(metrics["loss"])
            callbacks.on_epoch_end(metrics=metrics, train_meter=train_meter, val_meter=val_meter)


def watchers(opt, world, run, model, parts, train_loader, val_loader):
    """The callbacks that watch a training; only those of the first process show and write anything."""
    train_data, val_data = train_loader.dataset, val_loader.dataset
    keeper, measures = Checkpoint if world.main else Follower, val_data.meter().summary()
    checkpoint = keeper(run, model, parts, measures, world=world, **opt.named_by(Checkpoint))
    parts["divergence"] = divergence = Divergence(
        run, parts["update"], parts["optimizer"], checkpoint.restore_before, world, **opt.named_by(Divergence)
    )
    failure, debugger = Failure(run, train_loader, val_loader, opt.pdb), Debugger(opt.debug_file, world)
    stop = signals.Signals(world, parts["train_meter"], debugger)
    if world.first(terminal):
        world.wait_long()  # for whoever sits there, at the debugger
    if not world.main:
        return Callbacks(failure, divergence, checkpoint, stop)
    name_broken(train_data, val_data, folder=run.folder)
    vis = Visualizer(opt.env, port=opt.vis_port, record=run.folder / "events.jsonl")
    return Callbacks(
        failure,  # the first one, see there
        ModelSummary(model, train_data, val_data),
        Plots(vis, run),
        Pictures(opt.draw_freq, vis.img),
        History(run, opt.max_epoch, next(model.parameters()).is_cuda),  # before Checkpoint: what is saved is on record
        divergence,
        checkpoint,
        Progress(run, train_loader, opt.max_epoch, opt.progress),  # after it, which knows the position
        stop,
        debugger,  # the last one, see there
    )


@torch.inference_mode()
def val(model, dataloader, callbacks=None, loss_meter=None, world=distributed.ALONE):
    """Measure the model on a loader of labelled data, in eval mode; the model's mode is the same afterwards.

    Returns (the data set's meter, its first measure): for classes a confusion meter and the accuracy in %. The losses
    go into loss_meter, where one is given.
    """
    callbacks, loss_meter, training = callbacks or Callbacks(), loss_meter or LossMeter(), model.training
    dataset, device = dataloader.dataset, next(model.parameters()).device
    meter = dataset.meter()

    def measure(input, target):
        input, target = dataset.prepare(*to_device((input, target), device), generator=None)
        with model.autocast():
            score, losses = model.objective(input, target)
            return input, target, model.decode(score), losses

    loss_meter.reset()
    callbacks.on_test_begin()
    model.eval()
    try:
        for batch in dataloader:
            for input, target, prediction, losses in in_parts(measure, *batch):
                meter.add(prediction, target)
                loss_meter.add(losses, samples=len(target))
                callbacks.on_test_summary(dataset=dataset, input=input, target=target, prediction=prediction)
                input = target = prediction = losses = None  # the next part needs the room
    finally:
        model.train(training)
    world.merge(meter, loss_meter)
    callbacks.on_test_end()
    return meter, next(iter(meter.summary().values()))


def pack(**kwargs):
    """Decode every picture of the data set once, into opt.pack_dir; train, val and test do it where it is missing."""
    opt = config.load({**kwargs, "cache": "none"})
    refuse_unread(opt, opt.given - opt.changed() | kwargs.keys())
    distributed.refuse()
    if not opt.pack:
        raise UserError("--pack=False leaves nothing to do: leave it out")
    for mode in ("train", "val", "test"):
        if mode == "test" and "test_data_root" not in kwargs and not any(map(os.path.exists, opt.test_data_root)):
            continue
        packed = build_data(opt, mode, torch.device("cpu"))
        name_broken(packed)
        if not isinstance(packed.rows, Pack):
            raise UserError(f"{opt.dataset} has no pictures to pack, or a note above says why they are not")
        print(f"{mode}: {len(packed)} pictures in {packed.rows.path}")


def evaluate(**kwargs):
    """The command val: measure a checkpoint on the validation part of its data, and write a report beside it."""
    opt, model, device = load_trained(kwargs)
    val_data = build_data(opt, "val", device, model.info["classes"])
    refuse_broken(val_data)
    name_broken(val_data)
    size = opt.val_batch_size or largest_batch(model, val_data, opt.batch_size)
    loader, losses = make_loader(val_data, size, opt.num_workers, device=device), LossMeter()
    beside = Path(opt.load_model_path).parent  # may be somebody else's, or an address
    folder = (beside if os.access(beside, os.W_OK) else Path()) / f"{Path(opt.load_model_path).stem}_report"
    folder.mkdir(exist_ok=True)
    for old in [*folder.glob("val_*.png"), *folder.glob("cam_*.png")]:
        old.unlink()
    cam.draw(model, val_data, opt.cam, folder)  # before the work, because not every model has such maps

    def save(name, picture):
        plots.image(picture, folder / f"{name}.png")

    with Callbacks(Pictures(opt.draw_freq, save), Debugger(opt.debug_file)) as callbacks:
        meter, _ = val(model, loader, callbacks, losses)
        print(f"on {len(val_data)} samples of {', '.join(opt.val_data_root or opt.train_data_root)}:")
        measures = named("val", meter.summary() | losses.summary())
        print("\n".join(f"{name}: {value:.4g}" for name, value in measures.items()))
        print(f"{plain(meter.value())}")
        meter.report(folder)
        print(f"report: {folder}")


@torch.inference_mode()
def test(**kwargs):
    """Write a checkpoint's predictions for samples without labels to opt.result_file."""
    opt, model, device = load_trained(kwargs)
    check_writable(opt.result_file)
    test_data = build_data(opt, "test", device, model.info["classes"])
    name_broken(test_data, consequence="get no prediction of their own")
    if not len(test_data):
        raise UserError(f"there is nothing to predict in {', '.join(opt.test_data_root)}")
    size = opt.val_batch_size or largest_batch(model, test_data, opt.batch_size)
    loader = make_loader(test_data, size, opt.num_workers, device=device)
    with Callbacks(Debugger(opt.debug_file)) as callbacks:

        def predict(input, id):
            input, _ = test_data.prepare(*to_device((input, id), device), generator=None)
            with model.autocast():
                return id.tolist() if isinstance(id, torch.Tensor) else list(id), model.predict(input)

        def predictions():
            """(ids, prediction) batch by batch: one at a time is held."""
            for batch in tqdm(loader, miniters=1, disable=None if opt.progress else True):
                for ids, prediction in in_parts(predict, *batch):
                    yield ids, prediction
                    prediction = None  # the next part needs the room
                    callbacks.on_test_summary()

        test_data.write_results(opt.result_file, predictions())
        print(f"wrote {opt.result_file}: predictions for {len(test_data)} samples")


def build_data(opt, mode, device, classes=None):
    """The data set that the options name, for train, val or test; `classes` are those of a model that is there."""
    root = opt.test_data_root if mode == "test" else opt.train_data_root
    dataset = getattr(data, opt.dataset)(root, mode, **opt.values())
    if mode == "test":
        dataset.classes = classes  # samples without labels may not tell
    elif classes and list(dataset.classes) != classes:
        raise UserError(
            f"the classes of {', '.join(opt.val_data_root or root)} are {', '.join(dataset.classes)}, but the model's "
            f"are {', '.join(classes)}: give the data it was trained on, or data of the same classes"
        )
    dataset.hold(device, opt.cache)
    return dataset


def build_untrained(opt, train_data):
    """The model as a training begins with it: new, or with the weights of another run."""
    model = build_model(opt, train_data.classes)
    model.info = {"classes": list(train_data.classes), "weights": train_data.weights, "config": opt.record()}
    model.set_criterion(opt.criterion, train_data.weights)
    if opt.load_model_path and not opt.resume:
        model.load(opt.load_model_path, partly=True)
    if opt.finetune:
        model.freeze_body()
    return model


def build_model(opt, classes):
    """The model that the options name, for these classes; it gets the options that its constructor names."""
    model = getattr(models, opt.model)
    built = model(num_classes=len(classes), **opt.named_by(model))
    task = getattr(data, opt.dataset).task
    if built.task != task:
        raise UserError(f"--model={opt.model} is for {built.task}, --dataset={opt.dataset} for {task}: change one")
    built.precision = opt.precision
    return built


def started_with(folder):
    """The options that a run began with: those of its config.yaml, or where that is lost those of its checkpoint."""
    path = folder / "config.yaml"
    with contextlib.suppress(config.ConfigError):
        if "run" in config.read_yaml(path, ()):  # its last lines: it is whole
            return config.load({"config": path})
    for name in CHECKPOINTS:
        with contextlib.suppress(ModelError, LookupError, TypeError):
            record = read_checkpoint(folder / name)["info"]["config"]
            print(f"warning: {path} is lost or damaged, {name} has the options", file=sys.stderr)
            return config.load(config.from_record(record))
    raise UserError(f"{path} is lost or damaged, and so are {' and '.join(CHECKPOINTS)} beside it")


def configure(kwargs, world):
    """The options of a training. With --resume they are those of that run, and `resume` becomes its folder."""
    opt = config.load(kwargs)
    if opt.pdb and world.size > 1:
        raise UserError("--pdb is for one process: leave it or torchrun out")
    if begun := world.first(find_launched, opt.work_dir):  # torchrun has started these processes again
        opt = config.load({"resume": begun})
    if opt.resume:
        if opt.config:
            raise UserError("--resume goes on with the run's own options: leave --config out")
        folder = world.first(find_run, opt.work_dir, opt.resume)
        given, started = opt.changes(), started_with(folder)
        opt = config.load({**config.from_record(started.record()), **given, "resume": folder})
        opt.given = set(given)
        for name in given.keys() - config.FREE_ON_RESUME:
            if given[name] != getattr(started, name):
                raise UserError(
                    f"--resume goes on with {name}={getattr(started, name)}, which cannot become {given[name]}; "
                    f"a new run can start from its weights: --load-model-path={folder / 'last.pth'} without --resume"
                )
        if opt.max_epoch < started.max_epoch:
            raise UserError(
                f"--max-epoch={opt.max_epoch}: a run may be given more epochs than its {started.max_epoch}, not fewer"
            )
    refuse_unread(opt, opt.given - opt.changed() | kwargs.keys())  # a preset's own line may be for another part
    if opt.load_model_path and not opt.resume:
        read_checkpoint(opt.load_model_path)  # tells before the pictures are read that it is none
    opt.show()
    return opt


def refuse_unread(opt, given):
    """Raise UserError for a given option that this model or data set does not have, so that nobody relies on it."""
    for part, package in (("model", models), ("dataset", data)):
        made = getattr(package, getattr(opt, part))
        bases = getattr(made, "func", made).__mro__  # a library's model is a partial
        read = {name for base in bases for name in inspect.signature(base.__init__).parameters}
        for name in sorted(config.OF_PART[part] & given - read):
            raise UserError(f"--{name.replace('_', '-')} means nothing to {getattr(opt, part)}: leave it out")


def load_trained(kwargs):
    """(options, model in eval mode, device) of the checkpoint that val and test are asked for, or the newest best one.

    The options are those it was trained with, but for what is given now.
    """
    given = config.load(kwargs)
    distributed.refuse()
    path = given.load_model_path or newest_best(given.work_dir)
    content = read_checkpoint(path)
    info = content.get("info", {})
    saved = {"model": content.get("model", given.model), **config.from_record(info.get("config", {}))}
    if "train_data_root" in kwargs:
        saved.pop("val_data_root", None)  # other data: its own share is measured
    # What was trained in 16 bits is measured in those that this machine is fast in.
    saved["precision"] = "fp32" if saved.get("precision", "fp32") == "fp32" else "auto"
    opt = config.load({**saved, **given.changes(), "load_model_path": path})
    opt.given = given.given
    refuse_unread(opt, kwargs.keys())
    opt.show()
    metrics = {name: value for name, value in content.get("metrics", {}).items() if name.startswith(("epoch", "val_"))}
    print(f"using {path}" + "".join(f", {name} {value:.4g}" for name, value in metrics.items()))
    device = pick_device(opt)
    model = build_model(opt, info.get("classes") or getattr(data, opt.dataset).classes)
    model.info = {"classes": list(getattr(data, opt.dataset).classes), **info}
    model.load(path)
    model.set_criterion(opt.criterion, info.get("weights"))
    return opt, model.to(device, memory_format=torch.channels_last).eval(), device


def pick_device(opt):
    """The GPU where it is wanted and there, else the CPU; opt.precision becomes that in which it will compute."""
    device = torch.device("cuda" if opt.use_gpu and has_gpu() else "cpu")
    if opt.use_gpu and "use_gpu" in opt.given and device.type == "cpu":
        print("warning: --use-gpu=True, but torch can use no GPU here: going on with the CPU", file=sys.stderr)
    chosen, opt.precision = opt.precision, pick_precision(opt.precision, device)
    why = ", the fastest that this machine has (--precision=auto)" if chosen == "auto" else ""
    print(f"computing on {'a GPU' if device.type == 'cuda' else 'the CPU'} in {opt.precision}{why}")
    return device


if __name__ == "__main__":
    with cli.one_line_errors(UserError, config.ConfigError, ModelError):
        commands = {"train": train, "val": evaluate, "test": test, "pack": pack, "help": help}
        fire.Fire(commands, command=cli.for_fire(command, options))
        distributed.leave()
