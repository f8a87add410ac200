"""Every option of hearth, once: its name, what it may be, its default and what it does.

`python main.py help` prints this file's DefaultConfig. A preset is a subclass that lists only what differs, each line
with its reason. An annotation is the option's checker: it takes what the user gave (text from the command line, YAML or
Python values) and returns it in the option's type, or raises ValueError saying what the option takes.
"""

import ast
import difflib
import inspect
import math
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


def name_in(package):
    """The name of a class that package/__init__.py imports."""

    def check(value):
        names = imported_names(package)
        added_at_run_time = isinstance(getattr(sys.modules.get(package), str(value), None), type)  # from a notebook
        if value not in names and not added_at_run_time:
            raise ValueError(f"a class that {package}/__init__.py imports: " + ", ".join(names) + nearest(value, names))
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


# What a run may be given anew with --resume. Anything else would make of it another run under the same name.
FREE_ON_RESUME = {
    *("config", "resume", "work_dir", "max_epoch", "train_data_root", "test_data_root", "num_workers", "use_gpu"),
    *("env", "vis_port", "print_freq", "progress", "debug_file", "result_file", "keep_last"),
}


class DefaultConfig:
    """Every option with its default."""

    config: optional(text) = None  # start from a preset of config.py (Demo) or a YAML file (a run's config.yaml)
    env: text = "default"  # visdom environment
    vis_port: integer(1, 65535) = 8097  # port of the visdom server on this machine; without a server training goes on

    dataset: name_in("data") = "DogCat"  # class of data/ that reads the pictures
    train_data_root: several(text) = ["./data/train"]  # folder(s) of labelled pictures, split into train and val
    test_data_root: several(text) = ["./data/test1"]  # folder(s) of pictures without labels
    image_size: integer(32) = 224  # the model sees pictures of this height and width, in pixels
    min_crop: number(0, above=True, high=1) = 0.08  # a random crop keeps at least this share of the picture
    noise: number(0) = 0.0  # Gaussian noise added in training: its standard deviation, where 1 is white
    batch_size: integer(1) = 32  # pictures per step
    num_workers: optional(integer(0)) = None  # processes that read pictures; None: one per core, at most 8

    model: name_in("models") = "SqueezeNet"  # class of models/
    load_model_path: optional(text) = None  # checkpoint to start from; val and test: None takes the newest best one
    finetune: flag = False  # train the model's head only; give the body with --load-model-path
    criterion: choice("cross_entropy", "label_smoothing") = "cross_entropy"  # loss function, of models/losses.py

    max_epoch: integer(1) = 10  # epochs in the whole run
    optimizer: choice("Adam", "AdamW", "SGD") = "Adam"  # class of torch.optim
    lr: number(0, above=True) = 0.001  # initial learning rate
    momentum: number(0, high=0.9999) = 0.9  # of SGD; Adam and AdamW use it as their first beta
    weight_decay: number(0) = 1e-4  # on weights only, not on biases and norms
    scheduler: choice("decay", "constant", "multistep", "cosine") = "decay"  # how the rate goes on, utils/schedule.py
    lr_decay: number(0, above=True, high=1) = 0.95  # decay: lr x lr_decay when an epoch's mean loss rises
    milestones: several(integer(1)) = []  # multistep: epochs after which the rate is divided by 10, e.g. 5,8
    warmup_epochs: number(0) = 0.0  # the rate climbs from 0 step by step for so many epochs
    seed: integer(0) = 0  # order of samples, initial weights, augmentation and dropout follow from it

    use_gpu: flag = True  # train on the GPU where there is one
    work_dir: text = "checkpoints"  # every run gets a folder of its own in here
    resume: run_name = None  # go on with a run: --resume takes the newest unfinished one, --resume=<run> that one
    monitor: choice("val_accuracy", "loss") = "val_accuracy"  # best.pth is the epoch best in this (loss: of training)
    keep_last: integer(0) = 0  # besides last.pth and best.pth, keep the weights of the last k epochs
    print_freq: integer(1) = 20  # steps between two points of the plots
    progress: flag = True  # progress bar (plain lines when the output is no terminal)
    debug_file: text = "/tmp/debug"  # `touch` it to stop the running loop in the debugger
    result_file: text = "result.csv"  # where test writes its predictions

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

    python main.py train --config=Demo    99 % on 780 validation pictures, two minutes on 2 cores
    """

    dataset = "Demo"  # draws its pictures when they are not there yet
    train_data_root = ["./data/demo/train"]
    test_data_root = ["./data/demo/test1"]
    model = "ResNet34"  # its BatchNorm makes it learn from scratch at once; SqueezeNet takes many more epochs
    image_size = 64  # the drawings are small; a twelfth of the work of 224
    min_crop = 0.5  # a smaller crop may show neither ears nor snout, which tell the two apart
    max_epoch = 6
    scheduler = "cosine"


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
