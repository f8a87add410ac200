"""DefaultConfig: the book's interface, checked values, YAML files and presets, and no option that nothing reads."""

import ast
import inspect
import operator
import re
import textwrap
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

import config
import data
import main as program
import models
from config import DefaultConfig
from utils import UserError, watch
from utils.options.kinds import nearest, number
from utils.options.names import imported_names
from utils.options.parts import check_parts
from utils.options.synonyms import SYNONYMS, THEIRS
from utils.steer import client


def test_parse_updates_known_options_and_prints_the_user_config(capsys):
    opt = DefaultConfig()
    opt.parse({"lr": 0.1, "use_gpu": False})
    assert (opt.lr, opt.use_gpu) == (0.1, False)
    printed = capsys.readouterr().out
    assert "user config:" in printed and "  lr: 0.1  (given)" in printed and "  batch_size: 32\n" in printed
    assert DefaultConfig().lr != 0.1  # another one is not touched


def test_parse_with_one_wrong_option_changes_nothing():
    opt = DefaultConfig()
    with pytest.raises(UserError, match="unknown option --leraning-rate"):
        opt.parse({"lr": 0.5, "leraning_rate": 1})
    assert opt.lr == DefaultConfig.lr and not opt.explicit


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("batch_size", "8", 8),
        ("lr", 1, 1.0),
        ("use_gpu", "false", False),
        ("use_gpu", "ON", True),
        ("env", 7, "7"),
        ("load_model_path", "None", None),
        ("num_workers", None, None),
        ("train_data_root", "a, b", ["a", "b"]),
        ("train_data_root", ("a", "b"), ["a", "b"]),
        ("train_data_root", "photos (1)", ["photos (1)"]),
        ("train_data_root", "['a,b', 'c']", ["a,b", "c"]),
        ("milestones", "3,8", [3, 8]),
        ("milestones", "[3, 8]", [3, 8]),
        ("milestones", "[]", []),
        ("milestones", 5, [5]),
        ("image_size", "64", 64),
        ("image_size", "320x192", "320x192"),
        ("image_size", "320X192", "320x192"),
        ("image_size", "224x224", 224),
        ("resume", True, "newest"),
        ("resume", False, None),
    ],
)
def test_values_are_coerced_to_the_options_type(name, value, expected):
    opt = DefaultConfig()
    opt.update({name: value})
    assert getattr(opt, name) == expected and type(getattr(opt, name)) is type(expected)


def test_the_defaults_pass_their_own_checks():
    opt = DefaultConfig()
    before = opt.values()
    opt.update(before)
    assert opt.values() == before


def test_later_sources_win_defaults_yaml_command_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("lr: 1e-2\nbatch-size: 4\nrun: {git_commit: abc}\n")
    opt = config.load({"config": str(path), "batch_size": "16"})
    assert (opt.lr, opt.batch_size, opt.max_epoch) == (0.01, 16, DefaultConfig.max_epoch)
    assert opt.explicit == {"config", "lr", "batch_size"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lr: [1, 2]", "--lr cannot be"),
        ("image_size: 96x", "--image-size cannot be '96x': it takes a whole number of 32 or more, or width x height"),
        ("image_size: 96x31", "--image-size cannot be '96x31'"),
        ("image_size: 96x64x3", "--image-size cannot be '96x64x3'"),
        ("image_size: [96, 64]", "--image-size cannot be"),
        ("learning_rate: 1", "unknown option --learning-rate"),
        ("just text", "holds no options"),
        ("{config: Dmo, lr: 1}", "`config: Dmo` is no preset of config.py; did you mean Demo"),
        ("a: b: c", "cannot be read as YAML"),
        ("!!python/object/apply:os.system ['touch owned']", "cannot be read as YAML"),
    ],
)
def test_a_bad_yaml_file_is_named(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        config.load({"config": "mine.yaml"})
    assert not Path("owned").exists()


def test_a_preset_is_a_subclass_and_what_it_sets_counts_as_set():
    opt = config.load({"config": "Demo", "lr": 0.5})
    assert opt.dataset == "Demo" and opt.lr == 0.5 and {"dataset", "lr"} <= opt.explicit


def test_a_notebook_gets_a_preset_through_parse(capsys):
    opt = DefaultConfig()
    opt.parse({"config": "Demo", "lr": 0.5})
    assert (opt.model, opt.image_size, opt.lr) == ("resnet18", 64, 0.5)


def test_presets_are_checked_like_the_command_line():
    class Wrong(DefaultConfig):
        max_epochs = 1

    class Text(config.Demo):
        image_size = "64"

    with pytest.raises(UserError, match="--config=Wrong: unknown option --max-epochs; did you mean max-epoch"):
        config.load({"config": "Wrong"})
    opt = config.load({"config": "Text"})  # a preset of a preset
    assert opt.image_size == 64 and opt.dataset == "Demo"


def test_a_file_can_start_from_a_preset_and_its_options_count_as_set(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("config: Demo\nimage_size: 224\n")
    opt = config.load({"config": str(path)})
    assert opt.dataset == "Demo" and opt.image_size == 224 and opt.overrides()["image_size"] == 224


def test_a_record_brings_back_a_presets_own_options_and_outlives_the_preset():
    class Own(DefaultConfig):
        temperature: number(0) = 1.0

    record = config.load({"config": "Own", "temperature": "0.5"}).to_dict()
    assert DefaultConfig().over(record).temperature == 0.5
    gone = DefaultConfig().over({**record, "config": "Renamed", "lr": 0.3})
    assert gone.lr == 0.3 and type(gone) is DefaultConfig


def test_a_users_own_preset_and_option_work():
    class Mine(DefaultConfig):
        batch_size = 7
        temperature: number(0) = 1.0

    opt = config.load({"config": "Mine", "temperature": "0.5"})
    assert (opt.batch_size, opt.temperature) == (7, 0.5)
    with pytest.raises(UserError, match="--temperature cannot be"):
        config.load({"config": "Mine", "temperature": "hot"})


def attributes(path, name="opt"):
    """The attributes of the variable `name` that a file reads."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)]
    read = [node for node in found if isinstance(node.ctx, ast.Load)]
    return {node.attr for node in read if name in (getattr(node.value, "id", ""), getattr(node.value, "attr", ""))}


def used(made):
    """The arguments that a function, or a class's constructor and those of its bases, names and does something with."""
    made = getattr(made, "func", made)  # a library's model is a partial
    functions = [vars(base).get("__init__") for base in made.__mro__] if isinstance(made, type) else [made]
    found = set()
    for function in filter(inspect.isfunction, functions):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
        loaded = {node.id for part in tree.body for node in ast.walk(part) if isinstance(node, ast.Name)}
        found |= loaded & inspect.signature(function).parameters.keys()
    return found


def test_every_option_is_read_somewhere():
    """As opt.<name> in main.py, or as an argument of what gets the options that it names, and used there."""
    named = re.findall(r"opt\.kwargs_for\(([\w.]+)\)", (ROOT / "main.py").read_text())
    parts = [operator.attrgetter(name)(program) for name in named if name != "model"]
    assert {"Schedule", "TrainStep", "NonFiniteGuard", "Checkpoint"} <= set(named)
    parts += [getattr(data, name) for name in imported_names("data")]
    parts += [getattr(models, name) for name in [*imported_names("models"), "mobilenet_v2"]]
    parts += [getattr(watch, name) for name in imported_names("utils.watch")]
    read = attributes(ROOT / "main.py").union(*map(used, parts), {"config"})  # config: by load, see the tests above
    read |= attributes(ROOT / "utils/train/launch.py") | attributes(ROOT / "utils/run/record.py")
    read |= attributes(ROOT / "utils/run/resume.py", "given") | attributes(ROOT / "models/ensemble.py", "given")
    read |= attributes(ROOT / "utils/runs/command.py") | attributes(ROOT / "utils/runs/prune.py")
    read |= attributes(ROOT / "utils/search/command.py")
    steering = attributes(ROOT / "utils/steer/steering.py") | attributes(ROOT / "utils/steer/client.py")
    read |= steering | attributes(ROOT / "utils/run/control.py") | {*client.COMMANDS}
    read |= set().union(
        *(attributes(ROOT / f"utils/deploy/{room}.py") for room in ("predict", "export", "prune", "card"))
    )
    assert set(DefaultConfig.options()) - read == set()


@pytest.mark.parametrize("part", ["model", "dataset"])
def test_what_is_marked_for_some_models_or_data_sets_is_an_argument_of_one(part):
    package, names = {
        "model": (models, ["mobilenet_v2", *imported_names("models")]),
        "dataset": (data, imported_names("data")),
    }[part]
    read = set().union(*(used(getattr(package, name)) for name in names))
    marked = {name for name, kind in DefaultConfig.options().items() if kind.part == part}
    assert marked and marked <= read


def test_old_spellings_of_options_and_values_work_with_a_note(capsys):
    opt = config.load({"colour": "0.3", "erase": 0.2, "min_crop": 0.5, "bad_steps": 7, "bad_action": "back"})
    assert (opt.color_jitter, opt.random_erasing, opt.crop_min_scale) == (0.3, 0.2, 0.5)
    assert (opt.max_bad_steps, opt.on_bad) == (7, "rollback")
    assert "color_jitter" in opt.explicit and "colour" not in vars(opt)
    assert config.load({"bad_action": "stop"}).on_bad == "stop"
    notes = capsys.readouterr().out.splitlines()
    assert "note: --colour is now called --color-jitter: --color-jitter=0.3" in notes
    assert "note: --bad-action is now called --on-bad: --on-bad=rollback" in notes


def test_the_record_of_an_older_run_lacks_a_younger_option_and_has_its_former_behaviour(tmp_path):
    old, file = DefaultConfig().to_dict(), tmp_path / "config.yaml"
    assert old.pop("fit") == "pad"  # now
    assert DefaultConfig().over(old).fit == "squeeze"
    assert (
        DefaultConfig().over({**old, "fit": "pad"}).fit == "pad" and config.load({"fit": "pad"}).over(old).fit == "pad"
    )
    assert DefaultConfig().over({"model": "FCN"}).fit == "pad"  # somebody's weights, without a record
    file.write_text(yaml.safe_dump({**old, "run": [{"launch": "1"}]}))
    assert config.load({"config": file}).fit == "squeeze" and config.load({"config": file, "fit": "pad"}).fit == "pad"
    assert "fit" not in config.load({"config": file}).asked  # a data set that has no use for it does not refuse it
    file.write_text(yaml.safe_dump({"lr": 0.1}))
    assert config.load({"config": file}).fit == "pad"  # somebody's options, no run's


def test_an_old_spelling_is_checked_like_the_new_one():
    with pytest.raises(UserError, match="--color-jitter cannot be '2': it takes a number of at least 0 and at most 1"):
        config.load({"colour": "2"})
    with pytest.raises(UserError, match="--on-bad cannot be 'retry': it takes one of stop, rollback"):
        config.load({"bad_action": "retry"})


def test_old_spellings_go_with_presets_yaml_files_and_own_presets(tmp_path):
    class Older(config.Demo):
        min_crop = 0.9

        def check(self):
            super().check()

    path = tmp_path / "mine.yaml"
    path.write_text("config: Demo\nmin_crop: 0.3\nbad_action: back\n")
    opt = config.load({"config": str(path)})
    assert (opt.crop_min_scale, opt.on_bad, opt.image_size) == (0.3, "rollback", 64)
    assert {"crop_min_scale", "on_bad"} <= opt.asked and "image_size" not in opt.asked
    opt = config.load({"config": "Older"})
    assert opt.crop_min_scale == 0.9 and "crop_min_scale" not in opt.asked
    with pytest.raises(UserError, match="--crop-min-scale is given twice: --min-crop is its former name"):
        config.load({"min_crop": 0.3, "crop_min_scale": 0.4})


def test_what_a_run_recorded_is_under_what_is_given_now_also_for_an_own_preset():
    class Extended(config.Demo):
        extra: config.integer(1) = 3

    record = config.load({"config": "Extended", "extra": 5}).to_dict()
    opt = config.load({"config": "Extended"}).over(record)
    assert type(opt) is Extended and opt.extra == 5


def test_options_that_are_loaded_already_are_copied_and_take_more(capsys):
    opt = config.load({"lr": 0.5})
    again = config.load({"lr": 0.25}, opt)
    assert (opt.lr, again.lr) == (0.5, 0.25) and again.explicit == {"lr"}
    again.assign(cache="none")
    assert opt.cache == "auto"
    with pytest.raises(UserError, match="unknown option --nonsense"):
        config.load({"nonsense": 1}, opt)


def test_paths_may_have_a_tilde_and_variables_on_the_command_line_and_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SET", "birds")
    (tmp_path / "mine.yaml").write_text("train_data_root: [~/a, $SET/b]\nwork_dir: ~/runs\n")
    opt = config.load({"config": "~/mine.yaml", "test_data_root": "x,~/${SET}", "load_model_path": "~/best.pth"})
    assert opt.train_data_root == [f"{tmp_path}/a", "birds/b"] and opt.work_dir == f"{tmp_path}/runs"
    assert opt.test_data_root == ["x", f"{tmp_path}/birds"] and opt.load_model_path == f"{tmp_path}/best.pth"
    assert config.load({"load_model_path": None}).load_model_path is None


def test_the_sample_of_a_file_loads_and_is_linked():
    sample = ROOT / "docs" / "sample.yaml"
    opt = config.load({"config": str(sample)}, command="train")
    check_parts(opt, models, data)
    given = yaml.safe_load(sample.read_text())
    assert given and {name: opt.values()[name] for name in given} == given
    assert all("(docs/sample.yaml)" in (ROOT / name).read_text() for name in ("README.md", "README.zh.md"))


def test_a_name_that_is_the_beginning_of_others_leads_to_them():
    assert nearest("ResNet34", ["ResNet34_1126_11_24_18", "MLP_1"]) == "; did you mean ResNet34_1126_11_24_18?"
    with pytest.raises(UserError, match="for control: --finetune trains the head alone"):
        config.load({"freeze": "features"}, command="train")


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("lr", "1e-4..1e-1", "it takes one value, `sweep` several or a range, a training each"),
        ("optimizer", "Adam, SGD", "it takes one value, `sweep` several or a range, a training each"),
        ("train_image_size", "64-96", "320x192; several have commas between them"),
        ("train_image_size", "64,48,8", "320x192; '8' is none; several have commas between them"),
    ],
)
def test_several_values_lead_to_a_sweep_and_to_commas(name, value, message):
    with pytest.raises(UserError, match=re.escape(message) + "$"):
        config.load({name: value}, command="train")


def test_sizes_of_crops_need_crops():
    for options in ({"augment": False}, {"config": "Finetune"}):
        with pytest.raises(UserError, match="--train-image-size=64,96x64 is for crops, and --augment=False makes none"):
            config.load({"train_image_size": "64,96x64", **options}, command="train")
    assert config.load({"config": "DogCatScratch", "augment": False}, command="train").train_image_size  # not asked for


def test_classes_that_are_balanced_twice_are_noted(capsys):
    config.load({"class_weights": "True", "resample": "sqrt"}, command="train")
    assert "--class-weights and --resample=sqrt balance the classes twice" in capsys.readouterr().out
    config.load({"class_weights": "True"}, command="train")
    assert "twice" not in capsys.readouterr().out


def test_the_names_of_other_projects_lead_to_options_and_are_none_themselves():
    options = config.DefaultConfig.options()
    former = {old for kind in options.values() for old in kind.old}
    assert set(SYNONYMS.values()) <= options.keys() and not SYNONYMS.keys() & (options.keys() | former)
    assert sum(len(names.split()) for names in THEIRS.values()) == len(SYNONYMS)  # none leads to two


@pytest.mark.parametrize(
    "text", ["lr: 0.1\nseed: 1\nlr: 0.2", "batch-size: 2\nbatch_size: 3", "optimizer_options: {a: 1, a: 2}"]
)
def test_an_option_that_a_file_has_twice_is_refused(text, tmp_path):
    (tmp_path / "o.yaml").write_text(text)
    with pytest.raises(UserError, match=r"o.yaml: (lr|batch_size|a) is given twice"):
        config.load({"config": str(tmp_path / "o.yaml")})
    (tmp_path / "o.yaml").write_text("<<: {lr: 0.1, seed: 3}\nlr: 0.2")
    opt = config.load({"config": str(tmp_path / "o.yaml")})
    assert (opt.lr, opt.seed) == (0.2, 3), "a merged mapping is there to be changed"


def test_options_may_come_as_a_dict_and_nothing_else():
    assert config.load({"seed": 2}, {"lr": 0.1, "seed": 1}, "train").overrides() == {"lr": 0.1, "seed": 2}
    with pytest.raises(UserError, match="'Demo' are no options: give them by name, train"):
        config.load({}, "Demo", "train")


def test_what_the_program_finds_for_an_option_is_shown_with_what_was_given(capsys):
    opt = config.load({"resume": "auto", "precision": "fp32"}, command="train")
    opt.assign(resume=None, precision="fp32")
    opt.show(everything=False)
    told = capsys.readouterr().out
    assert "  resume: None  (found for auto)\n" in told and "  precision: fp32  (given)\n" in told
