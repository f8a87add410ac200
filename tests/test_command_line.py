"""The command line is a contract: the whole of it is checked first; a mistake is one line, exit code 2."""

import ast
import os
import re
import subprocess
import sys
import time

import pytest
import torch
from conftest import FAST, ROOT, cold, main

import config

MISTAKES = {
    # FEATURES.md B3: option names of the book's README that do not exist
    ("train", "--data-root=x"): "unknown option --data-root; did you mean",
    ("test", "--load-path=x"): "unknown option --load-path; did you mean",
    ("train", "--trian-data-root=x"): "did you mean train-data-root",
    # B4: what Fire would do first and complain about later, or not at all
    ("train", "extra"): "what is 'extra'?",
    ("train", "--lr=0.1", "0.2"): "what is '0.2'?",
    ("train", "--noprogress"): "did you mean --progress=False?",
    ("train", "-l=0.1"): "'-l=0.1' is not an option",
    ("train", "--lr=0.1,0.2"): "--lr cannot be '0.1,0.2': it takes a number above 0",
    ("train", "--max-epoch=1e5"): "--max-epoch cannot be '1e5': it takes a whole number",
    ("train", "--lr=", "0.1"): "--lr= has no value",
    ("train", "--lr="): "--lr= has no value",
    ("train", "--lr"): "--lr has no value",
    ("train", "--lr=0.1", "--lr=0.2"): "--lr is given twice",
    ("train", "--", "--trace"): "'--' is not an option",
    (): "which command?",
    ("trian",): "unknown command 'trian'; did you mean train?",
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
    ("train", "--scheduler=multistep"): "--scheduler=multistep and --milestones=5,8 (epochs) go together",
    ("train", "--min-crop=1.5"): "--min-crop cannot be '1.5': it takes a number above 0 and at most 1",
    ("train", "--milestones=3,x"): "--milestones cannot be '3,x'",
    # names that do not exist
    ("train", "--model=ResNet43"): "did you mean ResNet34",
    ("train", "--model=BasicModule"): "--model cannot be 'BasicModule'",
    ("train", "--dataset=dogcat"): "did you mean DogCat?",
    ("train", "--optimizer=adam"): "did you mean Adam",
    ("train", "--config"): "--config has no value",
    ("train", "--config=Dmo"): "did you mean Demo?",
    ("train", "--train-data-root=nowhere"): "the folder nowhere does not exist: get train.zip",
    ("val", "--load-model-path=nowhere.pth"): "checkpoint nowhere.pth cannot be read: No such file",
    ("test", "--load-model-path=None"): "no trained model: checkpoints/*/best.pth does not exist",
    ("train", "--finetune"): "--finetune trains the head only: give the rest with --load-model-path",
    ("train", "--resume"): "holds no unfinished run",
    ("train", "--resume=Nobody_1"): "--resume=Nobody_1: no such run",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_a_mistake_is_one_line_and_exit_code_2_and_leaves_nothing_behind(arguments, tmp_path):
    began = time.monotonic()
    done = cold(*arguments, cwd=tmp_path)
    line = done.stderr.strip()
    assert done.returncode == 2
    assert line.startswith("main.py: ") and "\n" not in line, done.stderr
    assert MISTAKES[arguments] in line
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - began < 60  # the promise is 3 s; this only tells that nothing was trained first


@pytest.mark.parametrize("arguments", [["train", "--lr=1"], ["train", "--model=ResNet43"]])
def test_a_wrong_command_line_is_answered_without_loading_torch(arguments, tmp_path):
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was loaded')")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    loaded = "torch was loaded" in cold(*arguments, cwd=tmp_path, env=environment).stderr
    assert loaded == (arguments == ["train", "--lr=1"])


@pytest.mark.parametrize("arguments", [["help"], ["--help"], ["train", "-h"], ["train", "--lr=abc", "--help"]])
def test_help_names_every_option_with_default_and_comment(arguments, tmp_path):
    done = cold(*arguments, cwd=tmp_path, check=0)
    for name in config.DefaultConfig.options():
        (default,) = re.findall(rf"^ +{name}: .+ = (.+?)  # \S.{{10,}}$", done.stdout, re.MULTILINE)
        assert ast.literal_eval(default) == getattr(config.DefaultConfig, name)
    assert "python main.py train" in done.stdout and "SqueezeNet" in done.stdout and "Demo" in done.stdout


def test_help_into_a_pipe_that_closes_is_no_crash(tmp_path):
    command = f"{sys.executable} {ROOT / 'main.py'} help | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, timeout=60)
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
    assert done.stderr.count("warning: --use-gpu=True, but torch can use no GPU here: going on with the CPU") == 1
