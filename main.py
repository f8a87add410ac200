"""hearth: train, validate and test a model.

usage: main.py train|sweep|find-lr|val|test|predict|export|prune|card|pack|runs|control|replay|doctor|help [--option=x]

  python main.py train --config=Demo                                a first run on pictures it draws itself
  python main.py train --train-data-root=data/train --model=ResNet34 --lr=0.001 --batch-size=32
  python main.py train --resume                                     continue the run that was stopped last
  python main.py val                                                accuracy of the newest best model
  python main.py test --test-data-root=data/test1                   its predictions, as a Kaggle CSV
  python main.py predict --input=cat.jpg                            what it says about any pictures
  python main.py runs                                               all runs in a table, the best first
  python main.py control --lr=1e-4                                  steer the run that is being trained
  python main.py help lr                                            one option; `help` alone lists them all
  touch /tmp/debug                                                  step into the running loop
"""

import sys

import config
from utils import UserError, cli
from utils.run import signals
from utils.train import machine

if __name__ == "__main__":
    signals.end_on_signals()
    command, options = cli.check(sys.argv[1:], config.load, __doc__)  # without torch: a mistake is answered at once
    import main  # this file again, as a module: what stands below loads torch, and has the commands

    cli.run(main, command, options)
    sys.exit(main.processes.leave())

machine.prepare()  # has to come before torch

import functools
import os

import torch
from tqdm import tqdm

import data
import models
from data.broken import name_broken, refuse_broken
from data.build import build as build_data
from data.pictures.pack import packed_file
from models.ensemble import average
from utils import watch
from utils.events import Callbacks
from utils.files import check_writable
from utils.metrics import cam, plots
from utils.metrics.meters import LossMeter, TrainMeters, named, plain, write_report
from utils.notices import counted
from utils.options.parts import check_parts
from utils.run import members, preflight, record, resume
from utils.run.checkpoint import Checkpoint
from utils.run.control import loop_controls, run_controls
from utils.run.debugger import Debugger
from utils.run.guard import NonFiniteGuard
from utils.run.run import Run, State, new_folder
from utils.train import auto, processes
from utils.train.device import eval_mode, pick_device, pick_precision
from utils.train.evaluation import measured, predicted
from utils.train.loader import batches, make_loader
from utils.train.memory import largest_batch
from utils.train.schedule import Schedule
from utils.train.step import TrainStep
from utils.visdom import Visualizer
from utils.watch.by_name import build, pick
from utils.watch.model_summary import print_summary

machine.loaded()


def train(opt=None, **kwargs):
    """Train a model. Options: those of config.py, by name; `opt` are some that are loaded already."""
    opt = config.load(kwargs, opt, "train")
    world = processes.start(opt.use_gpu)
    opt, start = resume.resolve(opt, world)
    device = set_up(opt, opt.callbacks)
    # 1. data
    train_data, val_data = make_data(opt, "train", device), make_data(opt, "val", device)
    refuse_broken(train_data, val_data)

    # 2. model
    model = new_model(opt, train_data, start).to(device, memory_format=torch.channels_last)
    world.on_main(print_summary, model, train_data, val_data)

    # 3. loaders, optimizer and learning rate (a function of utils/train/schedule.py)
    train_loader = make_loader(train_data, opt.batch_size, opt.num_workers, opt.seed, device, world)
    val_loader = make_val_loader(opt, model, val_data, device, world)
    optimizer = model.get_optimizer(opt.optimizer, opt.lr, opt.weight_decay, opt.momentum, **opt.optimizer_options)
    schedule = Schedule(optimizer, steps_per_epoch=len(train_loader), **opt.kwargs_for(Schedule))
    step = TrainStep(model, optimizer, world, **opt.kwargs_for(TrainStep))

    # 4. the run's folder, all that is saved (State), when it is saved (Checkpoint), and who watches
    world.on_main(preflight.check_room, model, optimizer, **opt.kwargs_for(preflight.check_room))
    meters = TrainMeters(train_data.meter(), world)
    run = Run(opt.resume or world.on_main(new_folder, opt.work_dir, opt.model), writes=world.main)
    guard = NonFiniteGuard(run, step, optimizer, world, **opt.kwargs_for(NonFiniteGuard))  # looks every print_freq
    state = State(run, optimizer, schedule, step, meters, guard, sampler=train_loader.batch_sampler)
    checkpoint = Checkpoint(model, state, val_data.meter().summary(), world=world, **opt.kwargs_for(Checkpoint))
    callbacks = make_callbacks(opt, world, state, checkpoint, model, train_loader, val_loader)

    # 5. the loop
    with callbacks:  # whatever ends it, the run is saved and can be resumed
        checkpoint.restore()  # a new run saves its step 0 instead
        callbacks.on_train_begin()
        world.on_main(record.write_config, run, opt.to_dict())
        for epoch in run.epochs(opt):  # from 0 to opt.max_epoch, or from where the run stood
            callbacks.on_epoch_begin()
            model.train()
            if run.batch == 0:  # else a resumed epoch continues counting
                meters.reset()
            for batch in batches(train_loader, run, device):  # augmented, on the device, from run.batch on
                callbacks.on_batch_begin()
                schedule.step(epoch, run.batch)
                for input, target in step.micro_batches(*batch):  # usually one; all again, if memory runs out
                    score = losses = None  # what did not fit is freed
                    with step.attempt():
                        score, losses = step.objective(input, target)
                        loss = step.backward(losses, score)  # noqa: F841 - for the debugger
                step.apply(run.step)  # mean over processes, clip, optimizer, EMA; nothing if not finite
                run.advance()  # the step is made, even if its meter fails
                meters.add(step)  # its losses, and its scores for the data set's meter
                if run.step % opt.print_freq == 0:
                    callbacks.on_train_summary(**meters.summary())  # plotted; the guard may act
                callbacks.on_batch_end()  # the gradients are still there, as clipped

            val_meter, _ = val(step.ema_model, val_loader, callbacks, meters.val_losses, world)
            run.next_epoch()
            metrics = {"epoch": run.epoch, "step": run.step, "lr": schedule.lr, **meters.epoch_summary(val_meter)}
            schedule.epoch_end(metrics["loss"], metrics.get("val_loss"))
            callbacks.on_epoch_end(metrics=metrics, train_meter=meters.scores, val_meter=val_meter)


@torch.inference_mode()
def val(model, dataloader, callbacks=None, loss_meter=None, world=processes.ALONE):
    """Measure the model on a loader of labelled data, in eval mode; the model's mode is the same afterwards.

    Returns (the data set's meter, its first measure): for pictures with classes a ClassMeter, of
    utils/metrics/class_meter.py, and the accuracy in %. The losses go into loss_meter, where one is given."""
    callbacks, loss_meter = callbacks or Callbacks(), loss_meter or LossMeter()
    dataset, meter = dataloader.dataset, dataloader.dataset.meter()
    loss_meter.reset()
    callbacks.on_test_begin()
    with eval_mode(model):
        for input, target, prediction, losses in measured(model, dataloader):
            meter.add(prediction, target)
            loss_meter.add(losses, samples=model.samples(target))
            callbacks.on_test_summary(dataset=dataset, input=input, target=target, prediction=prediction)
            input = target = prediction = losses = None  # the next batch needs the memory
    world.reduce_meters(meter, loss_meter)
    callbacks.on_test_end()
    return meter, next(iter(meter.summary().values()))


def evaluate(opt=None, **kwargs):
    """The command val: measure a checkpoint on the validation part of its data, and write a report beside it."""
    opt, model, device = load_trained(config.load(kwargs, opt, "val"))
    val_data = make_data(opt, "val", device, model.info["classes"])
    refuse_broken(val_data)
    name_broken(val_data)
    loader, losses = make_val_loader(opt, model, val_data, device), LossMeter()
    folder, about = record.open_report(opt, val_data, model.info)
    cam.draw(model, val_data, opt.cam, folder)  # before the work, because not every model has such maps
    pictures = watch.Pictures(opt.draw_freq, show=functools.partial(plots.image, folder))
    with Callbacks([pictures], *loop_controls(loader, opt.debug_file)) as callbacks:
        meter, _ = val(model, loader, callbacks, losses)
        print(f"on {counted(len(val_data), 'sample')}, {about}:")
        for name, value in named("val", meter.summary() | losses.summary()).items():
            print(f"{name}: {value:.4g}")
        print(plain(meter))
        write_report(meter, named("val", losses.summary()), folder)
        watch.page.write_page(folder)
        print(f"report: {folder}")


@torch.inference_mode()
def test(opt=None, **kwargs):
    """Write a checkpoint's predictions for samples without labels to opt.result_file."""
    opt, model, device = load_trained(config.load(kwargs, opt, "test"))
    check_writable(opt.result_file, "--result-file")
    test_data = make_data(opt, "test", device, model.info["classes"])
    name_broken(test_data, consequence="not predicted by the model")
    if not len(test_data):
        raise UserError(f"there is nothing to predict in {', '.join(opt.test_data_root)}")
    loader = make_val_loader(opt, model, test_data, device)
    with Callbacks([], *loop_controls(loader, opt.debug_file)) as callbacks:
        test_data.write_results(opt.result_file, predictions(model, loader, opt.progress, callbacks))
        print(f"wrote {opt.result_file}: predictions for {counted(len(test_data), 'sample')}")


def predictions(model, dataloader, progress, callbacks):
    """Yield (ids, prediction) batch by batch: one at a time is held."""
    with tqdm(total=len(dataloader.dataset), unit=" samples", miniters=1, disable=None if progress else True) as bar:
        for ids, prediction in predicted(model, dataloader):
            yield ids, prediction
            prediction = None  # the next batch needs the memory
            bar.update(len(ids))
            callbacks.on_test_summary(target=ids)


def pack(opt=None, **kwargs):
    """Decode every picture of the data set once, into opt.pack_dir; train, val and test do it where it is missing."""
    opt = config.load(kwargs, opt, "pack")
    check_parts(opt, models, data)
    processes.refuse_torchrun()
    opt.assign(cache="none")
    tested = "test_data_root" in opt.asked or any(map(os.path.exists, opt.test_data_root))
    with Callbacks([], Debugger(opt.debug_file)) as callbacks:
        for mode in ["train", "val"] + ["test"] * tested:
            packed = make_data(opt, mode, torch.device("cpu"))
            name_broken(packed)
            print(f"{mode}: {counted(len(packed), 'picture')} in {packed_file(packed)}")
            callbacks.on_test_summary()


def set_up(opt, callbacks=()):
    """Check the options against model, data set and callbacks, print them, set the seed and return the device. Raises
    UserError for an option that this model or data set does not read."""
    check_parts(opt, models, data)
    for name in callbacks:
        pick(name, opt)
    opt.show(opt.show_options)
    device = pick_device(opt.use_gpu, "use_gpu" in opt.explicit)
    torch.manual_seed(opt.seed)
    return device


def make_data(opt, mode, device, classes=None):
    """The data set that the options name, for train, val or test; `classes` are those of a trained model."""
    root = opt.test_data_root if mode == "test" else opt.train_data_root
    gone = "dataset" in opt.asked or not any(map(os.path.exists, root))  # or of another kind than what is measured
    if mode == "val" and classes and opt.val_data_root and gone:  # a trained model does not need its training data
        root = opt.val_data_root
    dataset = build_data(getattr(data, opt.dataset), root, mode, opt.values(), classes)
    dataset.cache_on(device, opt.cache)
    return dataset


def make_val_loader(opt, model, dataset, device, world=processes.ALONE):
    """A loader in order, of as many samples at a time as the options say, or as the device has room for."""
    size = opt.val_batch_size or largest_batch(model, dataset, max(1, opt.batch_size // world.size))
    return make_loader(dataset, size, opt.num_workers, None, device, world)


def make_model(opt, classes):
    """The model that the options name, for these classes; it gets the options that its constructor names."""
    model = getattr(models, opt.model)
    built = model(num_classes=len(classes), **opt.kwargs_for(model))
    task = getattr(data, opt.dataset).task
    if built.task != task:
        raise UserError(f"--model={opt.model} is for {built.task}, --dataset={opt.dataset} for {task}: change one")
    built.precision = opt.precision
    return built


def new_model(opt, train_data, start):
    """The model with which a training begins: new, or with the weights of `start`, a checkpoint's content."""
    model = make_model(opt, train_data.classes)
    facts = {"classes": list(train_data.classes), "counts": list(train_data.counts), "weights": train_data.weights}
    model.set_criterion(opt.criterion, train_data.weights)  # names of models/losses.py
    model.resize(resume.channels_of(opt.resume))  # before the optimizer gets its weights
    if start:
        model.load(start["path"], partly=True, content=start, least=0 if opt.partly else 0.9)  # of its body
        start.clear()  # `train` holds the dict as long as it runs
    if opt.finetune:
        model.freeze_body(opt.unfreeze_epoch)
    auto.settle(opt, model, train_data)  # on a copy
    model.info |= {**facts, "config": opt.to_dict()}
    return model


def load_trained(given):
    """(options, model in eval mode, device) of the checkpoint that is asked for, or the newest best one, or the mean of
    several. The options are those it was trained with, except what is given now."""
    processes.refuse_torchrun()
    name, several = members.each(given)
    if several:
        return average(given, name, several, load_trained)
    opt, content = resume.trained(given)
    device, info = set_up(opt), content.get("info", {})
    opt.assign(precision=pick_precision(opt.precision, device))
    model = make_model(opt, classes := resume.classes_of(opt, info, getattr(data, opt.dataset).classes))
    model.load(opt.load_model_path, content=content)
    model.info["classes"] = list(classes)
    model.set_criterion(opt.criterion, info.get("weights"))
    return opt, model.to(device, memory_format=torch.channels_last).eval(), device


def make_callbacks(opt, world, state, checkpoint, model, train_loader, val_loader):
    """The Callbacks of a training: what controls it (utils/run/: Checkpoint saves, others may end it) and, in the first
    process alone, what observes it: utils/watch/, and with --callbacks a class of yours, which gets what it names."""
    controls = run_controls(opt, checkpoint, world, train_loader, val_loader, **opt.kwargs_for(run_controls))
    if not world.main:
        return Callbacks([], *controls)
    name_broken(train_loader.dataset, val_loader.dataset, folder=state.run.folder)
    vis = Visualizer(opt.env, port=opt.vis_port, record=state.run.folder / "events.jsonl")
    parts = {**vars(state), "model": model, "train_loader": train_loader, "val_loader": val_loader}
    names = dict.fromkeys(["Pictures", "History", "Progress", *opt.callbacks, "Curves"])  # Curves closes vis: last
    return Callbacks([build(name, opt, vis=vis, show=vis.img, **parts) for name in names], *controls)
