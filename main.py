"""hearth: train, validate and test a model.

usage: python main.py train|val|test|help [--option=value ...]

  python main.py train --config=Demo                                a first run on pictures it draws itself
  python main.py train --train-data-root=data/train --model=ResNet34 --lr=0.001 --batch-size=32
  python main.py train --resume                                     go on with the run that was stopped last
  python main.py val                                                accuracy of the newest best model
  python main.py test --test-data-root=data/test1                   its predictions, as a Kaggle CSV
  touch /tmp/debug                                                  step into the running loop
"""

import os
import sys

import config
from utils import UserError, cli


def help():
    """Print usage, examples and every option with its default and comment, taken from the config class itself."""
    print(f"{__doc__}\n{config.describe()}")


if __name__ == "__main__":
    # The whole command line is checked here, before torch is loaded: a mistake is answered in a fraction of a second.
    command, options = cli.check(sys.argv[1:], ("train", "val", "test", "help"), config.load)
    if command == "help":
        with cli.one_line_errors():
            sys.exit(help())

# Read when torch is loaded: its threads then sleep soon instead of spinning while they wait for each other. On cores
# shared with other work a step was 1.8 times as fast, on idle ones 0.96 times (benchmarks/threads.py).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import fire
import torch
from tqdm import tqdm

import data
import models
from data.base import name_broken, refuse_broken
from models.basic_module import ModelError, read_checkpoint
from utils.callbacks import Callbacks, Checkpoint, History, Plots, Progress
from utils.debug import Debugger
from utils.files import check_writable
from utils.loader import make_loader, seed_step, to_device
from utils.meters import LossMeter
from utils.run import Run, find_run, newest_best
from utils.schedule import Schedule
from utils.visualize import Visualizer


def train(**kwargs):
    """Train a model. Options: those of config.py."""
    opt = configure(kwargs)
    device = pick_device(opt)
    torch.manual_seed(opt.seed)

    # step 1: data
    train_data, val_data = (
        getattr(data, opt.dataset)(opt.train_data_root, mode, **opt.values()) for mode in ("train", "val")
    )
    refuse_broken(train_data, val_data)
    train_loader = make_loader(train_data, opt.batch_size, opt.num_workers, seed=opt.seed)
    val_loader = make_loader(val_data, opt.batch_size, opt.num_workers)

    # step 2: model
    model = getattr(models, opt.model)(num_classes=len(train_data.classes))
    model.info = {"classes": list(train_data.classes), "config": opt.record()}
    model.criterion = getattr(models.losses, opt.criterion)
    if opt.load_model_path and not opt.resume:
        model.load(opt.load_model_path, head=not opt.finetune)
    if opt.finetune:
        model.freeze_body()
    model.to(device, memory_format=torch.channels_last)

    # step 3: optimizer and learning rate
    optimizer = model.get_optimizer(opt.optimizer, opt.lr, opt.weight_decay, opt.momentum)
    schedule = Schedule(
        optimizer, opt.scheduler, len(train_loader), opt.max_epoch, opt.milestones, opt.warmup_epochs, opt.lr_decay
    )

    # step 4: the run's folder, meters, and what watches the run
    run = Run(opt.resume or Run.new_folder(opt.work_dir, opt.model))
    name_broken(train_data, val_data, folder=run.folder)
    vis = Visualizer(opt.env, port=opt.vis_port, record=run.folder / "events.jsonl")
    loss_meter, train_meter = LossMeter(), train_data.meter()
    parts = {"optimizer": optimizer, "schedule": schedule, "order": train_loader.batch_sampler}
    parts |= {"loss_meter": loss_meter, "train_meter": train_meter}
    callbacks = Callbacks(
        Plots(vis, run),
        History(run, opt.max_epoch),
        Checkpoint(run, model, parts, opt.monitor, opt.keep_last),  # after these two: what is saved is on record
        Progress(run, len(train_data), opt.batch_size, opt.max_epoch, opt.progress),
        Debugger(opt.debug_file),  # the last one, see there
    )

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
            for ii, (input, target) in enumerate(train_loader, start=run.batch):
                callbacks.on_batch_begin()
                generator = seed_step(opt.seed, run.step, device)
                input, target = train_data.prepare(*to_device((input, target), device), generator)
                schedule.step(run.step)
                optimizer.zero_grad()
                score, losses = model.objective(input, target)
                loss = sum(losses.values())
                loss.backward()
                optimizer.step()
                run.batch, run.step = ii + 1, run.step + 1

                loss_meter.add(loss)
                train_meter.add(score, target)
                if run.step % opt.print_freq == 0:
                    callbacks.on_train_summary(loss=loss_meter.value()[0], **train_meter.summary())
                callbacks.on_batch_end()

            val_meter, _ = val(model, val_loader, callbacks)
            run.epoch, run.batch = epoch + 1, 0
            metrics = {"epoch": run.epoch, "step": run.step, "lr": schedule.lr, "loss": loss_meter.value()[0]}
            metrics |= {f"train_{name}": value for name, value in train_meter.summary().items()}
            metrics |= {f"val_{name}": value for name, value in val_meter.summary().items()}
            schedule.epoch_end(metrics["loss"])
            callbacks.on_epoch_end(metrics=metrics, train_meter=train_meter, val_meter=val_meter)


@torch.inference_mode()
def val(model, dataloader, callbacks=None):
    """Measure the model on a loader of labelled data, in eval mode; the model's mode is the same afterwards.

    Returns (the data set's meter, its first measure): for classes a confusion meter and the accuracy in %.
    """
    callbacks, training = callbacks or Callbacks(), model.training
    dataset, device = dataloader.dataset, next(model.parameters()).device
    meter = dataset.meter()
    callbacks.on_test_begin()
    model.eval()
    try:
        for input, target in dataloader:
            input, target = dataset.prepare(*to_device((input, target), device), generator=None)
            meter.add(model.predict(input), target)
            callbacks.on_test_summary()
    finally:
        model.train(training)
    callbacks.on_test_end()
    return meter, next(iter(meter.summary().values()))


def evaluate(**kwargs):
    """The command val: measure a checkpoint on the validation part of its data."""
    opt, model = load_trained(kwargs)
    val_data = getattr(data, opt.dataset)(opt.train_data_root, "val", **opt.values())
    refuse_broken(val_data)
    name_broken(val_data)
    loader = make_loader(val_data, opt.batch_size, opt.num_workers)
    with Callbacks(Debugger(opt.debug_file)) as callbacks:
        meter, _ = val(model, loader, callbacks)
        print(f"on {len(val_data)} samples of {', '.join(opt.train_data_root)}:")
        print("\n".join(f"val_{name}: {value:.4g}" for name, value in meter.summary().items()))
        print(f"{meter.value()}")


@torch.inference_mode()
def test(**kwargs):
    """Write a checkpoint's predictions for pictures without labels to opt.result_file."""
    opt, model = load_trained(kwargs)
    check_writable(opt.result_file)
    test_data = getattr(data, opt.dataset)(opt.test_data_root, "test", **opt.values())
    name_broken(test_data, consequence="predicted as undecided")
    loader = make_loader(test_data, opt.batch_size, opt.num_workers)
    device = next(model.parameters()).device
    ids, predictions = [], []
    with Callbacks(Debugger(opt.debug_file)) as callbacks:
        for input, id in tqdm(loader, miniters=1, disable=None if opt.progress else True):
            ids += id.tolist() if isinstance(id, torch.Tensor) else list(id)
            input, _ = test_data.prepare(*to_device((input, id), device), generator=None)
            predictions.append(model.predict(input).cpu())
            callbacks.on_test_summary()
        test_data.write_results(opt.result_file, ids, predictions)
        print(f"wrote {opt.result_file}: {len(test_data) + len(test_data.broken)} predictions")


def configure(kwargs):
    """The options of a training. With --resume they are those of that run, and `resume` becomes its folder."""
    opt = config.load(kwargs)
    if opt.resume:
        if opt.config:
            raise UserError("--resume goes on with the run's own options: leave --config out")
        folder = find_run(opt.work_dir, opt.resume)
        given, started = opt.changes(), config.load({"config": folder / "config.yaml"})
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
    elif opt.load_model_path:
        read_checkpoint(opt.load_model_path)  # tells before the pictures are read that it is none
    opt.show()
    return opt


def load_trained(kwargs):
    """(options, model in eval mode) of the checkpoint that val and test are asked for, or of the newest best one.

    The options are those it was trained with, but for what is given now.
    """
    given = config.load(kwargs)
    path = given.load_model_path or newest_best(given.work_dir)
    content = read_checkpoint(path)
    info = content.get("info", {})
    saved = {"model": content.get("model", given.model), **config.from_record(info.get("config", {}))}
    opt = config.load({**saved, **given.changes(), "load_model_path": path})
    opt.given = given.given
    opt.show()
    metrics = content.get("metrics", {})
    print(
        f"using {path}" + "".join(f", {name} {metrics[name]:.4g}" for name in metrics if name in ("epoch", opt.monitor))
    )
    model = getattr(models, opt.model)(num_classes=len(info.get("classes") or getattr(data, opt.dataset).classes))
    model.load(path)
    return opt, model.to(pick_device(opt), memory_format=torch.channels_last).eval()


def pick_device(opt):
    """The GPU where it is wanted and there, else the CPU; a warning when it was asked for in vain."""
    if opt.use_gpu and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if opt.use_gpu and "use_gpu" in opt.given:
        print("warning: --use-gpu=True, but torch finds no GPU here: going on with the CPU", file=sys.stderr)
    return torch.device("cpu")


if __name__ == "__main__":
    with cli.one_line_errors(UserError, config.ConfigError, ModelError):
        commands = {"train": train, "val": evaluate, "test": test, "help": help}
        fire.Fire(commands, command=cli.for_fire(command, options))
