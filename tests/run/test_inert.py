"""Files with classes in them: the weights are read, nothing that the file names is imported or called."""

import argparse
import collections
import copyreg
import datetime
import io
import os
import pathlib
import pickle
import subprocess

import numpy as np
import pytest
import torch
from harmful import Harm
from torch import nn

from benchmarks.faults_saving import Tiny
from utils import UserError
from utils.run import inert
from utils.run.checkpoint_file import read_checkpoint

FORMS = {"zip": {}, "before 1.6": {"_use_new_zipfile_serialization": False}, "protocol 4": {"pickle_protocol": 4}}


class Dots(dict):
    """A dict with a name of its own, as configuration libraries have them."""


class Whole(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.act = nn.ModuleDict({"tiny": Tiny()}), nn.ReLU()
        self.register_buffer("scratch", torch.ones(3), persistent=False)


BESIDE = {
    "args": (argparse.Namespace(lr=0.1, out=pathlib.Path("a")), "argparse.Namespace, pathlib.PosixPath"),
    "best": (np.float64(71.5), "numpy._core.multiarray.scalar"),
    "table": (np.zeros(3), "numpy._core.multiarray._reconstruct"),
    "config": (Dots(a=1), "test_inert.Dots"),
    "when": (datetime.datetime(2020, 1, 1), "datetime.datetime"),
    "lists": (collections.defaultdict(list, a=[1]), ""),
    "last": (collections.deque([1, 2]), ""),
    "seen": ({1, 2}, ""),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_stands_beside_the_weights_is_named_and_not_read(tmp_path, form):
    weights = dict(Tiny().state_dict())
    for name, (value, made) in BESIDE.items():
        torch.save({"state_dict": weights, name: value, "epoch": 3}, tmp_path / "a.pth", **FORMS[form])
        content = read_checkpoint(tmp_path / "a.pth")
        assert content["weights"].keys() == {f"state_dict.{key}" for key in weights}
        assert all(torch.equal(content["weights"][f"state_dict.{key}"], one) for key, one in weights.items())
        assert content["skipped"] == ([f"{name} ({made})"] if made else [])


@pytest.mark.parametrize("form", FORMS)
def test_a_model_that_was_pickled_whole_gives_its_state_dict(tmp_path, form):
    whole = Whole().half()
    whole.inner["tiny"].classifier.bias = whole.inner["tiny"].norm.bias  # two names of one weight
    for content, place in ((whole, ""), ({"model": whole, "ema": None}, "model.")):
        torch.save(content, tmp_path / "a.pth", **FORMS[form])
        found = read_checkpoint(tmp_path / "a.pth")["weights"]
        own = whole.state_dict()
        assert found.keys() == {f"{place}{name}" for name in own}
        assert all(torch.equal(found[f"{place}{name}"], value) for name, value in own.items())
    assert not list(tmp_path.glob("*.patch"))  # torch's for changed sources


@pytest.mark.parametrize("form", FORMS)
def test_code_of_pythons_is_refused_by_name_and_any_other_is_not_run(tmp_path, form):
    owned = tmp_path / "owned"
    calls = {
        "system": Harm(os.system, f"touch {owned}"),
        "exec": Harm(exec, f"open({str(owned)!r}, 'w')"),
        "check_output": Harm(subprocess.check_output, ["touch", str(owned)]),
        "getattr": Harm(getattr, "a", "upper"),
    }
    for name, harm in calls.items():
        torch.save({"model": Tiny().state_dict(), "args": [harm]}, tmp_path / "a.pth", **FORMS[form])
        with pytest.raises(UserError, match=rf"a.pth is refused: to read it means to run \w+\.{name}, ") as error:
            read_checkpoint(tmp_path / "a.pth")
        assert "\n" not in str(error.value)
    torch.save({"model": Tiny().state_dict(), "args": Harm(np.save, str(owned), 1)}, tmp_path / "a.pth", **FORMS[form])
    assert read_checkpoint(tmp_path / "a.pth")["skipped"] == ["args (numpy.save)"]
    assert not list(tmp_path.glob("owned*"))


def test_a_stand_in_cannot_be_changed_into_something_else():
    """What a pickle does to a class that it names reaches neither torch nor the next file."""
    build = b"\x80\x02" + b"c%s\n%s\n" + b"}X\x01\x00\x00\x00aK\x01sb."  # BUILD on the class itself
    for module, name in ((b"torch._utils", b"_rebuild_tensor_v2"), (b"collections", b"OrderedDict"), (b"a", b"B")):
        with pytest.raises(TypeError):
            inert.load(io.BytesIO(build % (module, name)))
    assert inert.Unpickler.find_class(None, "a", "B") is not inert.Unpickler.find_class(None, "a", "B")
    extension = 200
    copyreg.add_extension("os", "system", extension)
    try:
        with pytest.raises(inert.CodeRefused, match="os.system"):
            inert.load(io.BytesIO(pickle.PROTO + b"\x02" + pickle.EXT1 + bytes([extension]) + b"."))
    finally:
        copyreg.remove_extension("os", "system", extension)
