"""Errors of PyTorch, NumPy and the system that hints.py explains: each is raised by the real thing."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import main
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from toy_data import Points

import config
from main import evaluate
from models.basic_module import BasicModule
from utils.cli import one_line_errors
from utils.options import hints


class First(BasicModule):
    def __init__(self, num_classes=2):
        self.layer = nn.Linear(2, num_classes)


class Later(BasicModule):
    def __init__(self, num_classes=2):
        nn.Module.__init__(self)


def wide():
    """Two points in float64, as NumPy makes them."""
    return torch.from_numpy(np.zeros((2, 2)))


SCORE, LAYER = torch.zeros(2, 3, requires_grad=True), nn.Linear(2, 2)
ERRORS = {
    "a constructor that begins with a layer": (lambda: First(), hints.SUPER),
    "a constructor of the wrong class": (lambda: Later().model_name, hints.SUPER),
    "float64 into a linear layer": (lambda: LAYER(wide()), hints.INPUTS),
    "whole numbers into a linear layer": (lambda: LAYER(wide().long()), hints.INPUTS),
    "float64 into a convolution": (lambda: nn.Conv2d(1, 1, 1)(wide()[None, None]), hints.INPUTS),
    "bytes into a norm": (lambda: nn.BatchNorm1d(2)(wide().byte()), hints.INPUTS),
    "float64 into a norm": (lambda: nn.LayerNorm(2)(wide()), hints.INPUTS),
    "float64 into a recurrent net": (lambda: nn.LSTM(2, 2)(wide()), hints.INPUTS),
    "labels in int32": (lambda: F.cross_entropy(SCORE, torch.zeros(2, dtype=torch.int32)), hints.LABELS),
    "labels in float64": (lambda: F.cross_entropy(SCORE, torch.zeros(2, dtype=torch.float64)), hints.LABELS),
    "shares in whole numbers": (lambda: F.cross_entropy(SCORE, torch.zeros(2, 3, dtype=int)), hints.TARGETS),
    "float64 as target": (lambda: F.mse_loss(SCORE, torch.zeros(2, 3).double()).backward(), hints.TARGETS),
    "a label too high": (lambda: F.cross_entropy(SCORE, torch.tensor([0, 3])), "a label is no class of the data set"),
    "index": (lambda: np.zeros(3)[5], ""),  # not a label
    "something else": (lambda: {}["x"], ""),
}


@pytest.mark.parametrize("what", ERRORS)
def test_an_error_that_a_users_part_causes_is_a_line_that_says_what_to_do(what):
    act, hint = ERRORS[what]
    with pytest.raises(Exception, match=".") as caught:
        act()
    line = hints.explained(caught.value)
    assert line.startswith(f"{hint} (" if hint.isascii() and hint.endswith(")") else hint) and bool(line) == bool(hint)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_file_of_tensors_that_is_not_whole_is_named(tmp_path, share):
    torch.save(torch.zeros(1000), tmp_path / "new.pt")
    torch.save(torch.zeros(1000), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.save(tmp_path / "one.npy", np.zeros(1000))
    np.savez(tmp_path / "many.npz", a=np.zeros(1000))
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises((EOFError, OSError, RuntimeError, ValueError, zipfile.BadZipFile)) as caught:
            torch.load(path) if path.suffix == ".pt" else np.load(path)
        assert hints.explained(caught.value).startswith(f"{path} is cut off or damaged: write it again (")


class Torn(Points):
    """Its samples are in files, of which one is missing and one is empty."""

    def __init__(self, folder):
        self.folder = folder

    def __getitem__(self, index):
        return torch.load(Path(self.folder, f"{index}.pt"))


def test_an_error_in_a_workers_process_is_one_line_too(tmp_path):
    (tmp_path / "1.pt").write_bytes(b"")
    said = []
    for index in (0, 1):
        with pytest.raises((OSError, EOFError)) as caught:
            next(iter(DataLoader(Torn(tmp_path), batch_sampler=[[index]], num_workers=1)))
        said.append(hints.explained(caught.value))
    assert said[0] == f"{tmp_path / '0.pt'}: No such file or directory"
    assert said[1].startswith("a file that is read is cut off or damaged: write it again (")


def test_a_file_that_the_system_does_not_give_is_named_with_the_option_that_it_lies_below(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def said(path, **options):
        opt = config.load({"work_dir": str(tmp_path), **options}, command="train")
        with pytest.raises(OSError, match="No such file") as caught:
            open(path)
        return hints.explained(caught.value) if opt else ""

    gone = ": No such file or directory"
    assert said("pictures/rose/1.jpg", train_data_root="a,pictures") == (
        "--train-data-root=pictures: pictures/rose/1.jpg" + gone
    )
    assert said("packs", pack_dir="packs") == "--pack-dir=packs" + gone
    assert said(tmp_path / "packs/x", pack_dir="packs") == f"--pack-dir=packs: {tmp_path}/packs/x" + gone
    assert said("/nowhere/packs/x", pack_dir="packs") == "/nowhere/packs/x" + gone
    assert said("packs2/x", pack_dir="packs", work_dir="work") == "packs2/x" + gone


def test_the_option_is_the_checkpoints_where_nobody_has_given_it(trained, capsys, monkeypatch):
    folder, run, _ = trained
    monkeypatch.chdir(folder)
    monkeypatch.setattr("main.refuse_broken", lambda data: open(Path(data.paths[0]).parent / "gone.jpg"))
    with pytest.raises(SystemExit), one_line_errors():
        evaluate()
    root = config.load({"config": str(run / "config.yaml")}).train_data_root[0]
    assert capsys.readouterr().err == (
        f"main.py: --train-data-root={root}: {root}/gone.jpg: No such file or directory\n"
    )


def test_a_command_names_the_option_too(tmp_path):
    (tmp_path / "file").write_text("")
    done = main("runs", "--work-dir=file/runs", cwd=tmp_path, check=2)
    assert done.stderr.startswith("main.py: ") and "file/runs" in done.stderr and "Traceback" not in done.stderr
