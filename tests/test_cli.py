"""The command line is a contract: the whole of it is checked first; a mistake is one line, exit code 2."""

import ast
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import FAST, ROOT, cold, main

import config
from utils import UserError, cli

MISTAKES = {
    # FEATURES.md B3: option names of the book's README that do not exist
    ("train", "--data-root=x"): "unknown option --data-root; did you mean",
    ("test", "--load-path=x"): "unknown option --load-path; did you mean",
    ("train", "--trian-data-root=x"): "did you mean train-data-root",
    # what other projects call them
    ("train", "--learning-rate=0.1"): "unknown option --learning-rate; it is --lr here, see `help lr`",
    ("train", "--epochs=5"): "it is --max-epoch here",
    ("val", "--batch=8"): "it is --batch-size here",
    ("train", "--workers=2"): "it is --num-workers here",
    ("train", "--device=cuda:0"): "it is --use-gpu here",
    ("train", "--wd=0"): "it is --weight-decay here",
    ("train", "--gpu=0"): "it is --gpus here",
    ("train", "--num-classes=3"): "unknown option --num-classes: the data have their classes, by folders, labels or",
    ("help", "epochs"): "help epochs: no such option; it is --max-epoch here, see `help max-epoch`",
    ("fit",): "unknown command 'fit'; did you mean train?",
    ("inference", "--x=1"): "did you mean predict?",
    # B4: what Fire would do first and complain about later, or not at all
    ("train", "extra"): "what is 'extra'?",
    ("train", "--lr=0.1", "0.2"): "what is '0.2'?",
    ("train", "--noprogress"): "did you mean --progress=False?",
    ("train", "-l=0.1"): "'-l=0.1' is not an option",
    ("train", "--lr=0.1,0.2"): "--lr cannot be '0.1,0.2': it takes one value, `sweep` several or a range",
    ("train", "--max-epoch=1e5"): "--max-epoch cannot be '1e5': it takes a whole number",
    ("train", "--lr=", "0.1"): "--lr= has no value",
    ("train", "--lr="): "--lr= has no value",
    ("train", "--lr"): "--lr has no value",
    ("train", "--lr=0.1", "--lr=0.2"): "--lr is given twice",
    ("train", "--", "--trace"): "'--' is not an option",
    (): "which command?",
    ("trian",): "unknown command 'trian'; did you mean train?",
    ("help", "nonsense"): "help nonsense: no such option; did you mean noise?",
    ("help", "lr", "more"): "what is 'lr'?",
    ("train", "lr"): "what is 'lr'?",
    ("models",): "unknown command 'models'",
    # values out of type or range
    ("train", "--batch-size=0"): "--batch-size cannot be '0': it takes a whole number of 1 or more",
    ("train", "--batch-size=2.5"): "--batch-size cannot be '2.5'",
    ("train", "--lr=abc"): "--lr cannot be 'abc'",
    ("train", "--lr=-1"): "--lr cannot be '-1'",
    ("train", "--lr=nan"): "--lr cannot be 'nan'",
    ("train", "--lr=inf"): "--lr cannot be 'inf'",
    ("train", "--use-gpu=maybe"): "--use-gpu cannot be 'maybe': it takes True or False",
    ("train", "--vis-port=99999"): "--vis-port cannot be '99999'",
    ("train", "--seed=99999999999999999999"): "--seed cannot be",
    ("train", "--scheduler=multistep"): "--scheduler=multistep needs --milestones, a whole number of 1 or more",
    ("train", "--crop-min-scale=1.5"): "--crop-min-scale cannot be '1.5': it takes a number above 0 and at most 1",
    ("train", "--min-crop=1.5"): "--crop-min-scale cannot be '1.5': it takes a number above 0 and at most 1",
    ("train", "--milestones=3,x"): "--milestones cannot be '3,x'",
    # names that do not exist
    ("train", "--model=ResNet43"): "did you mean ResNet34",
    ("train", "--model=BasicModule"): "--model cannot be 'BasicModule'",
    ("train", "--dataset=dogcat"): "did you mean DogCat?",
    ("train", "--optimizer=adam"): "did you mean Adam",
    ("train", "--config"): "--config has no value",
    ("train", "--config=Dmo"): "did you mean Demo?",
    ("train", "--callbacks=Progres"): "did you mean Progress",
    ("train", "--scheduler=linear", "--cycles=2"): "--cycles belongs to --scheduler=cosine, not to linear",
    ("help", "--scheduler=linear", "--warmup-epochs=10"): "--warmup-epochs=10 has to be less than --max-epoch=10",
    # options that another command reads
    (
        "val",
        "--resume=x",
    ): "val does not read --resume, which is for train: --run=NAME takes the best model",
    (
        "test",
        "--lr=5",
        "--compile",
    ): "test does not read --lr, which is for train, control, doctor, find-lr and prune: leave it out (`help test`",
    ("test", "--min-crop=0.5"): "test does not read --crop-min-scale",
    ("train", "--run=x"): "train does not read --run, which is for val, test, replay, control, doctor, export, ",
    ("train", "--labels"): "train does not read --labels, which is for test",
    ("pack", "--model=resnet18"): "pack does not read --model",
    ("train", "--finetune"): "--finetune needs --load-model-path or --pretrained",
}
LATE = {  # what only a model, a data set, a file or a folder knows
    ("train", "--width=0.5"): "--width means nothing to SqueezeNet: leave it out",
    ("train", "--dataset=Heart", "--model=MLP", "--resample=log"): "--resample means nothing to Heart: leave it out",
    ("train", "--dataset=DogCat", "--download"): "--download means nothing to DogCat: leave it out",
    (
        "train",
        "--train-data-root=nowhere",
    ): "--train-data-root: there is no folder nowhere: give another, get train.zip",
    ("val", "--load-model-path=nowhere.pth"): "checkpoint nowhere.pth cannot be read: No such file",
    ("test", "--load-model-path=None"): "no trained model: checkpoints/*/best.pth does not exist",
    ("train", "--resume"): "holds no unfinished run",
    ("train", "--resume=Nobody_1"): "--resume=Nobody_1: no such run",
}


# One process answers all of these, without torch: a mistake that needs it would end in a traceback.
ANSWER = """
import contextlib, io, json, runpy, sys, traceback
sys.modules["torch"] = None
program, answers = sys.argv[1], []
for words in json.loads(sys.argv[2]):
    sys.argv, code, said = [program, *words], None, io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_path(program, run_name="__main__")
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
    answers.append((code, said.getvalue()))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """{arguments: (exit code, stderr)} of all MISTAKES, and the files that they left in the current folder."""
    folder = tmp_path_factory.mktemp("mistakes")
    command = [sys.executable, "-c", ANSWER, str(ROOT / "main.py"), json.dumps([*MISTAKES])]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    return dict(zip(MISTAKES, map(tuple, json.loads(done.stdout)), strict=True)), [*folder.iterdir()]


def one_line(code, stderr):
    """The line that a mistake is answered with."""
    line = stderr.strip()
    assert code == 2
    assert line.startswith("main.py: ") and "\n" not in line, stderr
    return line


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_and_exit_code_2_without_torch_and_leaves_nothing_behind(arguments, answers):
    found, files = answers
    assert MISTAKES[arguments] in one_line(*found[arguments]) and files == []


@pytest.mark.parametrize("arguments", LATE, ids=" ".join)
def test_a_mistake_that_shows_later_is_one_line_too_before_anything_is_trained(arguments, tmp_path):
    done = main(*arguments, cwd=tmp_path)
    assert LATE[arguments] in one_line(done.returncode, done.stderr) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["train", "--lr=1"], ["train", "--model=ResNet43"]])
def test_a_wrong_command_line_is_answered_without_loading_torch(arguments, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was loaded')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    loaded = "torch was loaded" in cold(*arguments, cwd=tmp_path, env=environment).stderr
    assert loaded == (arguments == ["train", "--lr=1"])


HEADINGS = ["data", "augmentation of training pictures", "model", "training", "learning rate", "machine"]
HEADINGS += [
    "run and its checkpoints",
    "a trained model at work",
    "many runs",
    "control of a run that is being trained",
    "watching and debugging",
]


def test_a_command_with_a_wish_for_help_is_explained():
    for words in (["val", "-h"], ["--help", "val"], ["val", "--lr=abc", "--help"], ["help", "val"]):
        assert cli.read(words)[:2] == ("help", "val")
    assert cli.read(["-h"])[:2] == cli.read(["help", "-h"])[:2] == ("help", "")


@pytest.mark.parametrize("arguments", [["help"], ["--help"]])
def test_help_names_every_option_with_default_and_comment_under_its_heading(arguments, tmp_path):
    printed = cold(*arguments, cwd=tmp_path, check=0).stdout
    for name in config.DefaultConfig.options():
        option = re.escape("--" + name.replace("_", "-"))
        (default,) = re.findall(rf"^  {option}=(.+?)(?: +|\n {{30}})[^ ].{{10,}}$", printed, re.MULTILINE)
        assert ast.literal_eval(default) == getattr(config.DefaultConfig, name)
    assert re.findall(r"\n\n(\w.*)\n  --", printed) == HEADINGS
    assert "python main.py train" in printed and "SqueezeNet" in printed and "Demo" in printed
    assert max(map(len, printed.splitlines())) <= 120


@pytest.mark.parametrize("command", ["train", "val", "test", "pack"])
def test_help_on_a_command_lists_what_it_reads(command, tmp_path):
    """Also where a function of main.py is called from Python, nothing else is taken."""
    printed = main("help", command, cwd=tmp_path, check=0).stdout
    listed = [name.replace("-", "_") for name in re.findall(r"^  --([a-z-]+)=", printed, re.MULTILINE)]
    read = [name for name, kind in config.DefaultConfig.options().items() if command in kind.commands]
    assert listed == read and 10 < len(read) < len(config.DefaultConfig.options())
    for name in config.DefaultConfig.options().keys() - set(read):
        with pytest.raises(UserError, match=f"{command} does not read --{name.replace('_', '-')}"):
            config.load({name: getattr(config.DefaultConfig, name)}, command=command)


def test_help_on_one_option_says_all_about_it(tmp_path):
    printed = {name: main("help", name, cwd=tmp_path, check=0).stdout.splitlines() for name in ("lr", "lr-decay")}
    assert printed["lr"] == [
        "--lr=0.001  (learning rate)",
        "initial learning rate",
        "takes: a number above 0",
        "presets: Finetune 0.01, DogCatScratch 0.004, SegmentationFast 0.01, Coco 0.0003, Heart 0.1, CIFAR10 0.1, "
        "CIFAR10Fast 0.02",
        "read by: train, control, doctor, find-lr, prune",
        "on --resume: is fixed",
    ]
    assert "goes with: --scheduler=decay" in printed["lr-decay"]
    printed = main("help", "scheduler", cwd=tmp_path, check=0).stdout
    assert "decides about: --lr-decay, --patience, --milestones" in printed
    printed = main("help", "color-jitter", cwd=tmp_path, check=0).stdout
    assert "read by: train, doctor, find-lr, with each --dataset that has it\n" in printed
    assert "formerly: --colour" in printed
    assert "on --resume: may change\n" in main("help", "max_epoch", cwd=tmp_path, check=0).stdout


OLD = {
    "--colour=0.3": "note: --colour is now called --color-jitter: --color-jitter=0.3",
    "--erase=0.2": "note: --erase is now called --random-erasing: --random-erasing=0.2",
    "--min-crop=0.5": "note: --min-crop is now called --crop-min-scale: --crop-min-scale=0.5",
    "--bad-steps=7": "note: --bad-steps is now called --max-bad-steps: --max-bad-steps=7",
    "--bad-action=back": "note: --bad-action is now called --on-bad: --on-bad=rollback",
}


def test_old_spellings_train_with_a_note_each_on_the_command_line_and_in_a_yaml_file(tmp_path, pictures):
    (tmp_path / "old.yaml").write_text("".join(f"{word[2:].replace('=', ': ')}\n" for word in OLD))
    printed = {}
    for way, options in {"words": OLD, "file": ["--config=old.yaml"]}.items():
        arguments = [f"--train-data-root={pictures}", *FAST, "--max-epoch=1", f"--work-dir={way}", *options]
        printed[way] = main("train", *arguments, cwd=tmp_path, check=0).stdout.splitlines()
        assert sorted(line for line in printed[way] if "is now called" in line) == sorted(OLD.values())
        for line in ("color_jitter: 0.3", "random_erasing: 0.2", "crop_min_scale: 0.5", "max_bad_steps: 7"):
            assert f"  {line}  (given)" in printed[way]
        assert "  on_bad: rollback  (given)" in printed[way]
        (saved,) = (tmp_path / way).glob("*/config.yaml")
        assert "color_jitter: 0.3" in saved.read_text() and "colour" not in saved.read_text().partition("run:")[0]


def test_a_schedule_is_drawn_instead_where_its_options_are_given(tmp_path):
    done = main("help", "--scheduler=cosine", "--max-epoch=4", "--lr=0.1", cwd=tmp_path, check=0)
    lines = [line.split() for line in done.stdout.splitlines() if line[:6].strip().isdigit()]
    assert [float(line[1]) for line in lines] == pytest.approx([0.1, 0.08536, 0.05, 0.01464], rel=1e-3)


def test_a_yaml_file_cannot_give_what_the_model_does_not_have_either(tmp_path, trained):
    (tmp_path / "mine.yaml").write_text("width: 0.5\n")
    done = main("train", "--config=mine.yaml", cwd=tmp_path, check=2)
    assert done.stderr == "main.py: --width means nothing to SqueezeNet: leave it out\n"
    done = main("val", "--download", cwd=trained[0], check=2)
    assert done.stderr == "main.py: --download means nothing to DogCat: leave it out\n"


def test_help_into_a_pipe_that_closes_is_no_crash(tmp_path):
    command = f"{sys.executable} {ROOT / 'main.py'} help | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.startswith("hearth: ") and done.stderr == ""


def test_dash_and_underscore_values_and_their_types_reach_the_config(tmp_path, pictures):
    """Values that Fire alone would take for something else: 007 stays text, false is False, 1e-2 is a number."""
    shown = []
    for spelling in ("--batch-size=8", "--batch_size=8"):
        arguments = [f"--train-data-root={pictures}", spelling, "--env=007", "--use-gpu=false", "--lr=1e-2"]
        fast = [option for option in FAST if not option.startswith("--batch")]
        done = main("train", *arguments, *fast, "--max-epoch=1", "--load-model-path=None", cwd=tmp_path, check=0)
        shown.append([line for line in done.stdout.splitlines() if line.startswith("  ")])
    assert shown[0] == shown[1]
    values = dict(line.strip().removesuffix("  (given)").split(": ", 1) for line in shown[0])
    assert values["batch_size"] == "8" and values["env"] == "007" and values["use_gpu"] == "False"
    assert values["lr"] == "0.01" and values["load_model_path"] == "None"
    saved = [config.load({"config": path}) for path in tmp_path.glob("checkpoints/*/config.yaml")]
    assert len(saved) == 2 and all(opt.env == "007" and opt.use_gpu is False and opt.lr == 0.01 for opt in saved)


def test_asking_for_a_gpu_in_vain_is_a_warning(tmp_path, pictures):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = main(
        "train", f"--train-data-root={pictures}", *FAST, "--max-epoch=1", "--use-gpu=True", cwd=tmp_path, check=0
    )
    assert done.stderr.count("warning: --use-gpu=True, but torch can use no GPU here: using the CPU") == 1
