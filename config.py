"""Every option of hearth, once: its name, what it may be, its default and what it does.

`python main.py help` prints this file's DefaultConfig. A preset is a subclass that lists only what differs, each line
with its reason. An annotation is the option's checker: it takes what the user gave (text from the command line, YAML or
Python values) and returns it in the option's type, or raises ValueError saying what the option takes.
"""

import ast
import difflib
import importlib.util
import inspect
import math
import re
import sys
from pathlib import Path


class ConfigError(ValueError):
    """An option or a value that cannot be: the message is one line that names it and says what to do."""


def text(value):
    """Any text that is not empty."""
    if value is True or str(value).strip() == "":
        raise ValueError("text")
    return str(value)


def flag(value):
    """True or False, however it is spelled."""
    spelled = str(value).strip().lower()
    if spelled in ("true", "1", "yes", "on"):
        return True
    if spelled in ("false", "0", "no", "off"):
        return False
    raise ValueError("True or False")


def integer(low, high=2**63 - 1):
    """A whole number from `low` to `high`."""

    def check(value):
        try:
            number = int(str(value))
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            raise ValueError(f"a whole number of {low} or more" + (f", at most {high}" if high < 2**63 - 1 else ""))
        return number

    return check


def number(low=0.0, above=False, high=math.inf):
    """A finite number from `low` (or above it) to `high`."""

    def check(value):
        try:
            result = float("nan" if isinstance(value, bool) else value)
        except (TypeError, ValueError):
            result = math.nan
        if not math.isfinite(result) or result < low or result > high or (above and result == low):
            upper = f" and at most {high:g}" if math.isfinite(high) else ""
            raise ValueError(f"a number {'above' if above else 'of at least'} {low:g}{upper}")
        return result

    return check


def choice(*names):
    """One of these names."""

    def check(value):
        if value not in names:
            raise ValueError("one of " + ", ".join(names) + nearest(value, names))
        return value

    return check


def optional(kind):
    """None, or what `kind` takes."""
    return lambda value: None if value is None or str(value) == "None" else kind(value)


def several(kind):
    """One value or more: a list, or text with commas between the values; ["a,b"] is one with a comma, [] is none."""

    def check(value):
        if isinstance(value, str) and value[:1] + value[-1:] in ("[]", "()"):
            try:
                value = ast.literal_eval(value)
            except (ValueError, SyntaxError):  # names without quotes
                value = value[1:-1]
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")]
        return [kind(part) for part in (value if isinstance(value, (list, tuple)) else [value])]

    return check


def weighted_sum(*names):
    """One of these names, or a sum of them with weights, written like 0.7*first+0.3*second."""

    def check(value):
        for term in str(value).split("+"):
            factor, _, name = term.rpartition("*")
            choice(*names)(name.strip())
            number(0, above=True)(factor or 1)
        return str(value)

    return check


def name_in(package):
    """The name of a class that package/__init__.py imports, or of what its library offers (see library_names)."""

    def check(value):
        names, more = imported_names(package), library_names(package)
        added_at_run_time = isinstance(getattr(sys.modules.get(package), str(value), None), type)  # from a notebook
        if value not in [*names, *more] and not added_at_run_time:
            others = f", or a classifier of {LIBRARIES[package]}" if more else ""
            hint = nearest(value, [*names, *more])
            raise ValueError(f"a class that {package}/__init__.py imports: {', '.join(names)}{others}{hint}")
        return value

    return check


def imported_names(package):
    """What package/__init__.py imports, read as text: a misspelled name is answered without waiting for torch."""
    tree = ast.parse((Path(__file__).parent / package / "__init__.py").read_text(encoding="utf-8"))
    return [
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    ]


def run_name(value):
    """A run's folder; the bare option (--resume) is the newest unfinished run."""
    if str(value) in ("None", "False"):
        return None
    return "newest" if str(value) == "True" else text(value)


LIBRARIES = {"models": "torchvision or timm"}


def library_names(package):
    """Classifiers that torchvision, and timm where it is installed, register by name. Their files are read as text:
    to import them takes seconds."""
    names = []
    for library in LIBRARIES.get(package, "").split(" or "):
        found = importlib.util.find_spec(library) if library else None
        for file in sorted(Path(found.origin).parent.glob("models/*.py")) if found else ():
            names += re.findall(
                r"^@register_model(?:\(\))?\n(?:@.*\n)*def (\w+)", file.read_text("utf-8"), re.MULTILINE
            )
    return sorted(set(names))


# What a run may be given anew with --resume. Anything else would make of it another run under the same name.
FREE_ON_RESUME = {
    *("config", "resume", "work_dir", "max_epoch", "train_data_root", "test_data_root", "num_workers", "use_gpu"),
    *("env", "vis_port", "print_freq", "progress", "debug_file", "result_file", "keep_last"),
    *("val_data_root", "download", "draw_freq", "keep_every", "keep_from", "cam"),
    *("pack", "pack_dir", "cache", "val_batch_size", "compile"),
    *("save_freq", "pdb", "bad_steps", "bad_action"),
}
# Options that some models or data sets have: given for another one they would be read by nobody. (Not proposals: a
# command for MaskRCNN is to train SSD with nothing but another --model.)
OF_PART = {
    "model": {"width"},
    "dataset": {
        *("val_data_root", "val_size", "download", "resample", "class_weights", "repeat"),
        *("pack", "min_crop", "flip", "rotate", "colour", "noise", "erase", "mixup", "cutmix"),
    },
}
# Options of one schedule alone: given with another one they would be read by nobody.
OF_SCHEDULER = {
    "lr_decay": ("decay",),
    "milestones": ("multistep",),
    "step_size": ("step",),
    "lr_gamma": ("multistep", "step"),
    "cycles": ("cosine",),
    "cycle_decay": ("cosine",),
    "lr_final": ("one_cycle", "linear"),
}
SCHEDULERS = "decay", "constant", "multistep", "step", "cosine", "linear_cosine", "exponential", "one_cycle", "linear"
LOSSES = "cross_entropy", "label_smoothing", "focal", "bce", "l1", "mse"


class DefaultConfig:
    """Every option with its default."""

    config: optional(text) = None  # start from a preset of config.py (Demo) or a YAML file (a run's config.yaml)
    env: text = "default"  # visdom environment
    vis_port: integer(1, 65535) = 8097  # port of the visdom server on this machine; without a server training goes on

    dataset: name_in("data") = "DogCat"  # class of data/ that reads the samples
    train_data_root: several(text) = ["./data/train"]  # folder(s) or list(s) of labelled samples
    val_data_root: several(text) = []  # the same for validation; none: 30 % of train_data_root
    test_data_root: several(text) = ["./data/test1"]  # folder(s) or list(s) of samples without labels
    val_size: optional(integer(1)) = None  # validate on so many samples at most
    download: flag = False  # CIFAR10: fetch the data (170 MB) when it is not there
    pack: flag = True  # decode every picture once, into pack_dir, and read it from there
    pack_dir: text = "packs"  # folder for that; it can be deleted at any time
    cache: choice("auto", "device", "none") = "auto"  # hold all pictures in device memory; auto: if a GPU has room
    resample: choice("none", "mean", "log", "sqrt") = "none"  # balance unequal classes in every epoch: mean evens them
    class_weights: flag = False  # weigh the loss of class c with N / N_c
    image_size: integer(32) = 224  # the model sees pictures of this height and width, in pixels
    min_crop: number(0, above=True, high=1) = 0.08  # a random crop keeps at least this share of the picture
    flip: number(0, high=1) = 0.5  # share of the training pictures that are mirrored, left and right
    rotate: number(0, high=180) = 0.0  # turn training pictures by up to so many degrees, either way
    colour: number(0, high=1) = 0.0  # change their brightness, contrast and saturation by up to this share
    noise: number(0) = 0.0  # Gaussian noise added in training: its standard deviation, where 1 is white
    erase: number(0, high=1) = 0.0  # share of the training pictures that a grey box is laid over
    mixup: number(0) = 0.0  # mix each training picture with another: alpha of the Beta distribution; 0: off
    cutmix: number(0) = 0.0  # paste a box of another one into each: the same
    repeat: integer(1) = 1  # CocoMask: an epoch goes through the pictures so many times
    batch_size: integer(1) = 32  # samples per step
    val_batch_size: optional(integer(1)) = None  # of validation and test; None: on a GPU what fits, else batch_size
    accumulate: integer(1) = 1  # a step's samples go through the model in so many parts: less memory
    num_workers: optional(integer(0)) = None  # processes that read samples; None: none for packed ones, else one per
    # core, at most 8

    model: name_in("models") = "SqueezeNet"  # class of models/, or a classifier of torchvision or timm: resnet18, ...
    width: number(0, above=True) = 1.0  # of models that come in several (mobilenet_v2, ...); 1 is the usual one
    proposals: integer(4) = 2000  # MaskRCNN: regions per picture that its first stage passes on in training
    load_model_path: optional(text) = None  # checkpoint (file or https://...) to start from: what fits is taken.
    # val and test: None takes the newest best one
    finetune: flag = False  # train the model's head only; give the body with --load-model-path
    criterion: optional(weighted_sum(*LOSSES)) = None  # loss of models/losses.py or a sum, 0.7*cross_entropy+0.3*focal;
    # None: the model's own

    max_epoch: integer(1) = 10  # epochs in the whole run
    optimizer: choice("Adam", "AdamW", "SGD") = "Adam"  # class of torch.optim
    lr: number(0, above=True) = 0.001  # initial learning rate
    momentum: number(0, high=0.9999) = 0.9  # of SGD; Adam and AdamW use it as their first beta
    weight_decay: number(0) = 1e-4  # on weights only, not on biases and norms
    scheduler: choice(*SCHEDULERS) = "decay"  # how the rate goes on; `help --scheduler=cosine` draws it
    lr_decay: number(0, above=True, high=1) = 0.95  # decay: lr x lr_decay when an epoch's mean loss rises
    milestones: several(integer(1)) = []  # multistep: epochs after which the rate is multiplied by lr_gamma, e.g. 5,8
    step_size: integer(1) = 3  # step: every so many epochs it is
    lr_gamma: number(0, above=True, high=1) = 0.1  # multistep, step: this factor
    cycles: integer(1) = 1  # cosine: how often the rate comes down; in between it climbs back
    cycle_decay: number(0, above=True, high=1) = 1.0  # cosine: height of each peak as a share of the last
    lr_final: number(0, high=1) = 0.2  # one_cycle, linear: share of the rate that is left at the end
    clip_grad: number(0) = 0.0  # cut the norm of all gradients down to this; 0: no
    bad_steps: integer(1) = 50  # after so many steps in a row without a finite loss or gradient, as counted every
    # print_freq,
    bad_action: choice("stop", "back") = "stop"  # the run ends, or goes back to a checkpoint, and on at half the rate
    ema: number(0, high=0.99999) = 0.0  # validate, and keep as best.pth, a moving average of the weights, of this decay
    warmup_epochs: number(0) = 0.0  # for so many epochs the rate first climbs from 0, step by step
    seed: integer(0) = 0  # order of samples, initial weights, augmentation and dropout follow from it

    use_gpu: flag = True  # train on the GPU where there is one
    precision: choice("auto", "fp32", "bf16", "fp16") = "auto"  # of the model's arithmetic, its weights stay fp32;
    # auto: what this machine computes fastest
    compile: flag = False  # torch.compile the training step
    work_dir: text = "checkpoints"  # every run gets a folder of its own in here
    resume: run_name = None  # go on with a run: --resume takes the newest unfinished one, --resume=<run> that one
    monitor: optional(text) = None  # best.pth is the epoch best in this: loss, val_loss, val_accuracy, ...;
    # None: the first measure of the data set
    save_freq: integer(0) = 0  # save everything every so many steps; 0: after every epoch, and where the run is stopped
    keep_last: integer(0) = 0  # besides last.pth and best.pth, keep the weights of the last k epochs
    keep_every: integer(0) = 0  # and those of every k-th epoch, with that epoch's report; 0: of none
    keep_from: integer(1) = 1  # keep_every begins with this epoch
    draw_freq: integer(0) = 0  # draw the predictions for every k-th batch of validation; 0: for none
    cam: integer(0) = 0  # val: draw class activation maps of so many pictures
    print_freq: integer(1) = 20  # steps between two points of the plots
    progress: flag = True  # progress bar (plain lines when the output is no terminal)
    debug_file: text = "/tmp/debug"  # `touch` it to stop the running loop in the debugger
    pdb: flag = False  # open the debugger where an error ends the training
    result_file: text = "result.csv"  # where test writes its predictions; masks go into a folder beside it

    def __init__(self):
        self.given = set()  # names of the options that somebody set

    def parse(self, kwargs):
        """Update the options from the dict `kwargs` and print them. Returns self.

        Raises ConfigError for an unknown option or a value that the option does not take; then nothing is changed.
        """
        self.update(load(kwargs).changes() if kwargs.get("config") else kwargs)
        self.show()
        return self

    def update(self, kwargs):
        """parse without the printing."""
        checked = {name: self._check(name, value) for name, value in kwargs.items()}
        vars(self).update(checked)
        self.given |= checked.keys()

    def show(self):
        """Print every option with its value."""
        print("user config:")
        for name, value in self.values().items():
            print(f"  {name}: {value}{'  (given)' if name in self.given else ''}")

    @classmethod
    def changed(cls):
        """Names of what the class and the presets above it set anew."""
        bases = cls.__mro__[: cls.__mro__.index(DefaultConfig)]
        return {name for base in bases for name in vars(base) if not name.startswith("_")}

    @classmethod
    def options(cls):
        """{name: checker} of every option, subclasses' own included, in the order of their definition."""
        return {name: kind for base in reversed(cls.__mro__) for name, kind in inspect.get_annotations(base).items()}

    def changes(self):
        """{name: value} of the options that somebody set: the command line, a YAML file or the preset."""
        return {name: value for name, value in self.values().items() if name in self.given}

    def values(self):
        """{name: value} of every option."""
        return {name: getattr(self, name) for name in self.options()}

    def named_by(self, function):
        """{name: value} of the options that the arguments of `function` (a class's constructor) name."""
        arguments = inspect.signature(function).parameters
        return {name: value for name, value in self.values().items() if name in arguments}

    def record(self):
        """values() to keep with a run; `config` is the preset whose options these are, whatever file they came from."""
        preset = None if type(self) is DefaultConfig else type(self).__name__
        return {**self.values(), "config": preset, "resume": None}

    def _check(self, name, value):
        options = self.options()
        shown = name.replace("_", "-")
        if name not in options:
            hint = nearest(name, options).replace("_", "-")
            if name.startswith("no") and name[2:].lstrip("_") in options:
                hint = f"; did you mean --{name[2:].lstrip('_')}=False?"
            raise ConfigError(f"unknown option --{shown}{hint or '; `python main.py help` lists them all'}")
        try:
            return options[name](value)
        except ValueError as error:
            problem = "has no value" if value is True or value == "" else f"cannot be {value!r}"
            raise ConfigError(f"--{shown} {problem}: it takes {error}") from None


class Demo(DefaultConfig):
    """Cats and dogs drawn on the spot, for a first run without any data set.

    python main.py train --config=Demo    99 % on 780 validation pictures, a minute on 2 cores
    """

    dataset = "Demo"  # draws its pictures when they are not there yet
    train_data_root = ["./data/demo/train"]
    test_data_root = ["./data/demo/test1"]
    model = "resnet18"  # its BatchNorm makes it learn from scratch at once; SqueezeNet takes many more epochs
    image_size = 64  # the drawings are small; a twelfth of the work of 224
    min_crop = 0.5  # a smaller crop may show neither ears nor snout, which tell the two apart
    max_epoch = 6
    scheduler = "cosine"
    warmup_epochs = 1.0  # without it one start in four needs two epochs more


class Segmentation(DefaultConfig):
    """Pictures in <root>/images and masks in <root>/masks, a pixel's value its class; class_name.txt names them.

    python main.py train --config=Segmentation --train-data-root=my/set    or with --model=DeepLabV3
    40 drawn pictures, --image-size=64 --batch-size=4 --max-epoch=5 --scheduler=constant: IoU 83 % in 10 s on a CPU
    (measured in fp32)
    """

    dataset = "MaskFolder"
    train_data_root = ["./data/segmentation/train"]
    test_data_root = ["./data/segmentation/test"]
    model = "FCN"
    min_crop = 0.5  # a smaller crop shows too little around an object to tell what it is
    batch_size = 8  # scores are as large as the picture
    max_epoch = 50
    scheduler = "cosine"
    draw_freq = 10  # picture | prediction | truth


class Coco(DefaultConfig):
    """Boxes and masks of objects in COCO's format; --model=SSD for boxes alone.

    python main.py train --config=Coco --train-data-root=annotations/instances_train2017.json \\
        --val-data-root=annotations/instances_val2017.json
    Four pictures (one file as both roots) are learned by heart, AP50 of boxes and masks 100 %, in nine minutes on 2
    busy cores: --image-size=192 --batch-size=2 --proposals=128 --repeat=50 --max-epoch=3 (measured in fp32)
    """

    dataset = "CocoMask"
    train_data_root = ["./data/coco/annotations/instances_train2017.json"]
    test_data_root = ["./data/coco/annotations/image_info_test2017.json"]
    model = "MaskRCNN"
    image_size = 512  # the longer side
    batch_size = 4
    optimizer = "AdamW"  # from scratch SGD needs a longer warm-up and more care
    lr = 3e-4
    scheduler = "cosine"
    warmup_epochs = 0.5
    max_epoch = 24
    draw_freq = 50  # the truth, and beside it what was found
    result_file = "result.json"


class Heart(DefaultConfig):
    """Points inside and outside of a heart, by a perceptron of 2,881 parameters.

    python main.py train --config=Heart    99.8 % on 30,000 points, half a minute on 2 cores
    """

    dataset = "Heart"  # makes its points itself
    model = "MLP"  # its criterion is the binary cross-entropy
    batch_size = 100
    optimizer = "SGD"
    lr = 0.1  # hundreds of small steps an epoch, no BatchNorm
    weight_decay = 0.0  # 70,000 points for 2,881 parameters: nothing to hold back
    scheduler = "cosine"
    max_epoch = 20
    keep_every = 5  # each with a picture of the heart as the model sees it
    num_workers = 0  # an item costs less than sending it between processes
    precision = "fp32"  # bf16 has three digits, which is too coarse for the heart's edge
    print_freq = 100


class CIFAR10(DefaultConfig):
    """CIFAR-10 at 32 pixels; --image-size=224 for models that want them large.

    python main.py train --config=CIFAR10 --train-data-root=data/cifar --download
    """

    dataset = "CIFAR10"
    train_data_root = ["./data/cifar10"]
    test_data_root = ["./data/cifar10"]
    model = "ResNet34"
    image_size = 32
    min_crop = 0.5  # of 32 pixels little is left otherwise
    batch_size = 128
    optimizer = "SGD"
    lr = 0.1  # as He et al. 2015, section 4.2
    weight_decay = 5e-4
    scheduler = "cosine"
    warmup_epochs = 0.5
    max_epoch = 30


def nearest(name, known):
    """'; did you mean a, b?' for the known names that look like `name`, or ''."""
    close = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.55)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def load(kwargs):
    """The configuration that these options describe: the defaults, then the preset or YAML file named by `config`,
    then the options themselves, the later ones winning. Raises ConfigError."""
    source, known = kwargs.get("config"), presets()
    if source is True:
        raise ConfigError("--config has no value: it takes a preset of config.py or a YAML file")
    try:
        written = {"config": source} if source in known or str(source) == "None" else read_yaml(source, known)
        recorded, base = written.pop("run", None), written.pop("config", None)
        if str(base) != "None" and base not in known and not recorded:
            raise ConfigError(f"`config: {base}` is no preset of config.py{nearest(base, known)}")
        preset = known.get(base, DefaultConfig)
        opt = preset()
        opt.update({name: getattr(opt, name) for name in preset.changed()} | written)
        if recorded:  # a run's own file lists every option, whoever set it
            opt.given = {name for name in opt.given if getattr(opt, name) != getattr(DefaultConfig, name, None)}
    except ConfigError as error:
        raise ConfigError(f"--config={source}: {error}") from None
    opt.update(kwargs)
    if (opt.scheduler == "multistep") != bool(opt.milestones):
        raise ConfigError("--scheduler=multistep and --milestones=5,8 (epochs) go together: give both or none")
    for name, schedulers in OF_SCHEDULER.items():
        if getattr(opt, name) != getattr(DefaultConfig, name) and opt.scheduler not in schedulers:
            raise ConfigError(
                f"--{name.replace('_', '-')} belongs to --scheduler={' or '.join(schedulers)}, not to {opt.scheduler}"
            )
    if opt.warmup_epochs >= opt.max_epoch:
        raise ConfigError(f"--warmup-epochs={opt.warmup_epochs:g} has to be less than --max-epoch={opt.max_epoch}")
    if opt.finetune and not opt.load_model_path:
        raise ConfigError("--finetune trains the head only: give the rest with --load-model-path=FILE")
    return opt


def from_record(record):
    """Arguments for load that bring back what record() kept; what config.py has no more is left out."""
    preset = presets().get(record.get("config"), DefaultConfig)
    known = {name: value for name, value in record.items() if name in preset.options()}
    return {**known, "config": None if preset is DefaultConfig else preset.__name__}


def presets(base=DefaultConfig):
    """{name: class} of all subclasses of `base`, theirs included."""
    found = {}
    for preset in base.__subclasses__():
        found |= {preset.__name__: preset, **presets(preset)}
    return found


def describe():
    """The options as the source of DefaultConfig has them, then the presets, models and data sets that can be named."""
    source = inspect.getsource(DefaultConfig).partition("    def __init__")[0].rstrip()
    names = {
        "--config": list(presets()),
        "--model": imported_names("models"),
        "--dataset": imported_names("data"),
    }
    lists = "\n".join(f"{option}: {', '.join(known)}" for option, known in names.items())
    return f"options (--batch-size=8 and --batch_size=8 are the same):\n\n{source}\n\n{lists}"


def read_yaml(path, presets):
    """{option: value} from a YAML file, and, from a run's config.yaml, `run`, its record."""
    import yaml

    if not Path(path).is_file():
        raise ConfigError(f"neither a file nor a preset of config.py{nearest(path, presets)}")
    try:
        options = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(options, dict):
        raise ConfigError("holds no options: lines like `lr: 0.005` are expected")
    return {str(name).replace("-", "_"): value for name, value in options.items()}
