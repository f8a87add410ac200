"""--finetune --unfreeze-epoch: the head first, then all of it, in one run."""

import hashlib
import signal

import pytest
import torch
from conftest import NO_SERVER, draw_folder, server
from runs import differences, events, only_run

import config
import models
from utils import UserError
from utils.run import resume
from utils.run.checkpoint_file import read_checkpoint
from utils.train.processes import ALONE

KILLED = """
import os, signal
from utils.train.step import TrainStep
apply = TrainStep.apply
def dies(self, number):
    if number == {}:
        os.kill(os.getpid(), signal.SIGKILL)
    apply(self, number)
TrainStep.apply = dies
"""
UNDRAWN = "from matplotlib.figure import Figure; Figure.savefig = lambda *_, **__: None"


def body(content):
    return {name: value for name, value in content["weights"].items() if not name.startswith("net.fc.")}


def test_the_body_stays_until_its_epoch_and_a_run_that_was_killed_ends_in_the_same_bits(tmp_path):
    draw_folder(tmp_path / "pictures", per_class=4)
    begin = models.shufflenet_v2_x0_5(num_classes=2)
    torch.save({"state_dict": begin.state_dict()}, tmp_path / "begin.pth")
    options = [NO_SERVER, *"--image-size=32 --batch-size=4 --num-workers=0 --train-data-root=../pictures".split()]
    options += [f"--pretrained={tmp_path}/begin.pth", "--finetune", "--unfreeze-epoch=1", "--max-epoch=3"]
    options += "--model=shufflenet_v2_x0_5 --val-data-root=../pictures --save-freq=3 --keep-last=3".split()
    options += ["--optimizer=SGD", "--augment=False"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    assert server().run("train", *options, cwd=whole, first=UNDRAWN) == 0
    first, second, _ = (read_checkpoint(only_run(whole) / f"epoch_00{number}.pth") for number in (1, 2, 3))
    start = body({"weights": begin.state_dict()})
    assert differences(body(first), start) == []
    assert not torch.equal(first["weights"]["net.fc.weight"], begin.state_dict()["net.fc.weight"])
    changed = {name.partition(".tensor")[0] for name in differences(body(second), start)}
    assert changed == start.keys()  # BatchNorm's statistics, too
    before = "train", *options
    for number in (2, 5):  # of two steps an epoch: where the record alone has the command, then the checkpoint, too
        code = server().run(*before, cwd=killed, first=UNDRAWN + KILLED.format(number))
        assert code == -signal.SIGKILL
        before = "train", "--resume"
    assert server().run(*before, cwd=killed, first=UNDRAWN) == 0
    one, other = (read_checkpoint(only_run(folder) / "last.pth") for folder in (whole, killed))
    assert differences(*({name: one[name] for name in one if name != "info"} for one in (one, other))) == []
    made = [(event["step"], *event["command"]) for event in events(only_run(killed)) if event["kind"] == "control"]
    assert made == [(0, "freeze"), (2, "unfreeze")]
    origin = {
        "sha256": hashlib.sha256((tmp_path / "begin.pth").read_bytes()).hexdigest(),
        "source": str(tmp_path / "begin.pth"),
        "licence": "licence not stated",
    }
    best = only_run(killed) / "best.pth"
    assert read_checkpoint(best)["info"]["origin"] == origin  # though it was resumed
    assert origin["sha256"] in (only_run(killed) / "config.yaml").read_text()
    next_run = {"load_model_path": str(best), "work_dir": str(tmp_path)}
    assert resume.resolve(config.load(next_run, None, "train"), ALONE)[1]["info"]["origin"] == origin
    assert "note: after step 2: trained again: 168 weights" in (killed / "output").read_text()


def test_an_epoch_that_never_comes_is_refused():
    given = {"pretrained": True, "finetune": True, "unfreeze_epoch": 3, "max_epoch": 3}
    with pytest.raises(UserError, match="--unfreeze-epoch=3 has to be less than --max-epoch=3"):
        config.load(given, None, "train")
    with pytest.raises(UserError, match="--unfreeze-epoch needs --finetune"):
        config.load({"unfreeze_epoch": 1}, None, "train")
