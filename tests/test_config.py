"""DefaultConfig: the book's interface, checked values, YAML files and presets, and no option that nothing reads."""

import ast
from pathlib import Path

import pytest

import config
from config import ConfigError, DefaultConfig

ROOT = Path(__file__).parent.parent


def test_parse_updates_known_options_and_prints_the_user_config(capsys):
    opt = DefaultConfig()
    opt.parse({"lr": 0.1, "use_gpu": False})
    assert (opt.lr, opt.use_gpu) == (0.1, False)
    printed = capsys.readouterr().out
    assert "user config:" in printed and "  lr: 0.1  (given)" in printed and "  batch_size: 32\n" in printed
    assert DefaultConfig().lr != 0.1  # another one is not touched


def test_parse_with_one_wrong_option_changes_nothing():
    opt = DefaultConfig()
    with pytest.raises(ConfigError, match="unknown option --leraning-rate"):
        opt.parse({"lr": 0.5, "leraning_rate": 1})
    assert opt.lr == DefaultConfig.lr and not opt.given


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
    assert opt.given == {"config", "lr", "batch_size"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lr: [1, 2]", "--lr cannot be"),
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
    with pytest.raises(ConfigError, match=message):
        config.load({"config": "mine.yaml"})
    assert not Path("owned").exists()


def test_a_preset_is_a_subclass_and_what_it_sets_counts_as_given():
    opt = config.load({"config": "Demo", "lr": 0.5})
    assert opt.dataset == "Demo" and opt.lr == 0.5 and {"dataset", "lr"} <= opt.given


def test_a_notebook_gets_a_preset_through_parse(capsys):
    opt = DefaultConfig()
    opt.parse({"config": "Demo", "lr": 0.5})
    assert (opt.model, opt.image_size, opt.lr) == ("resnet18", 64, 0.5)


def test_presets_are_checked_like_the_command_line():
    class Wrong(DefaultConfig):
        max_epochs = 1

    class Text(config.Demo):
        image_size = "64"

    with pytest.raises(ConfigError, match="--config=Wrong: unknown option --max-epochs; did you mean max-epoch"):
        config.load({"config": "Wrong"})
    opt = config.load({"config": "Text"})  # a preset of a preset
    assert opt.image_size == 64 and opt.dataset == "Demo"


def test_a_file_can_start_from_a_preset_and_its_options_count_as_given(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("config: Demo\nimage_size: 224\n")
    opt = config.load({"config": str(path)})
    assert opt.dataset == "Demo" and opt.image_size == 224 and opt.changes()["image_size"] == 224


def test_a_record_brings_back_a_presets_own_options_and_outlives_the_preset():
    class Own(DefaultConfig):
        temperature: config.number(0) = 1.0

    record = config.load({"config": "Own", "temperature": "0.5"}).record()
    assert config.load(config.from_record(record)).temperature == 0.5
    gone = config.load(config.from_record({**record, "config": "Renamed", "lr": 0.3}))
    assert gone.lr == 0.3 and type(gone) is DefaultConfig


def test_a_users_own_preset_and_option_work():
    class Mine(DefaultConfig):
        batch_size = 7
        temperature: config.number(0) = 1.0

    opt = config.load({"config": "Mine", "temperature": "0.5"})
    assert (opt.batch_size, opt.temperature) == (7, 0.5)
    with pytest.raises(ConfigError, match="--temperature cannot be"):
        config.load({"config": "Mine", "temperature": "hot"})


def test_every_option_is_read_somewhere():
    """As opt.<name> in main.py, or as an argument of a constructor that is given the options it names."""
    main = ast.parse((ROOT / "main.py").read_text())
    read = {node.attr for node in ast.walk(main) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
    for path in [
        *ROOT.glob("data/*.py"),
        *ROOT.glob("models/*.py"),
        *(ROOT / "utils" / f"{name}.py" for name in ("schedule", "checkpoint", "divergence", "update")),
    ]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                read |= {argument.arg for argument in node.args.args}
    assert set(DefaultConfig.options()) - read == set()
