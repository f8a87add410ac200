"""Masks as arrays: .npy, .npz and .mat are read where they hold one array of numbers, and nothing is unpickled."""

import pickle
import sys

import numpy as np
import pytest
from drawn import paint
from harmful import Harm
from scipy.io import savemat

from data import MaskFolder
from data.broken import refuse_broken
from data.pictures.masks import open_mask
from utils import UserError

MASK = (np.arange(32) < 16).astype(np.uint8) * np.ones((24, 1), np.uint8)


def matlab(path, mask):
    savemat(path, {"mask": mask, "version": 2})


def archive(path, mask):
    np.savez_compressed(path, mask=mask)


@pytest.mark.parametrize(
    ("suffix", "save", "form"),
    [
        ("npy", np.save, MASK),
        ("npy", np.save, MASK.astype(bool)),
        ("npy", np.save, MASK.astype(np.int64)[..., None]),
        ("npy", np.save, np.asfortranarray(MASK.astype(float))),
        ("npz", archive, MASK),
        ("mat", matlab, MASK.astype(float)),
    ],
)
def test_one_array_is_read_as_a_mask(tmp_path, suffix, save, form):
    (tmp_path / "annotations").mkdir()
    for number in range(2):
        paint(tmp_path / "images" / f"{number}.png", number=number, size=(32, 24))
        save(tmp_path / "annotations" / f"{number}.{suffix}", form)
    data = MaskFolder(tmp_path, "val", image_size="32x24", val_data_root=[tmp_path])
    assert not data.broken and data.classes == ["class 0", "class 1"]
    mask = data[0][1].numpy()
    assert (mask[:, :16] == 1).all() and (mask[:, 16:] == 0).all()


def test_what_is_not_one_array_of_numbers_is_refused_and_no_pickle_is_read(tmp_path, monkeypatch):
    def why(name):
        with pytest.raises(UserError) as error:
            open_mask(tmp_path / name)
        return str(error.value).removeprefix(f"{tmp_path / name} (")

    np.save(
        tmp_path / "objects.npy", np.array([Harm(open, str(tmp_path / "ran"), "w")], dtype=object), allow_pickle=True
    )
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Harm(open, str(tmp_path / "ran"), "w")))
    for name in ("objects.npy", "pickle.npy"):
        assert why(name).startswith("a pickled array, not read because a file may run anything that way: save the mask")
    assert not (tmp_path / "ran").exists()
    np.savez(tmp_path / "two.npz", a=MASK, b=MASK)
    assert why("two.npz").startswith("it holds 2 arrays: a, b: save the mask alone")
    np.save(tmp_path / "classes.npy", np.zeros((24, 32, 5)))
    assert why("classes.npy").startswith("its array has the shape 24x32x5")
    savemat(tmp_path / "struct.mat", {"GTcls": {"Segmentation": MASK, "Boundaries": MASK}, "names": ["a", "b"]})
    assert "it holds " in why("struct.mat") or "holds no numbers" in why("struct.mat")
    np.save(tmp_path / "negative.npy", np.full((8, 8), -1))
    assert why("negative.npy") == "a pixel is -1; classes are whole numbers from 0 to 254, and 255 is ignored)"
    np.save(tmp_path / "large.npy", MASK * np.int64(300))
    assert why("large.npy") == "a pixel is 300; classes are whole numbers from 0 to 254, and 255 is ignored)"
    (tmp_path / "new.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\x02IM" + b"\x89HDF" + bytes(512))
    assert why("new.mat").startswith("a file of MATLAB 7.3: save it with -v7, or save")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    assert why("new.mat").startswith("a file of MATLAB: pip install scipy, or save the mask")


def test_a_folder_of_pickled_masks_ends_in_one_line(tmp_path):
    (tmp_path / "masks").mkdir()
    for number in range(2):
        paint(tmp_path / "images" / f"{number}.png", number=number, size=(32, 24))
        np.save(tmp_path / "masks" / f"{number}.npy", np.array([None, MASK], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="a pickled array, not read"):
        refuse_broken(MaskFolder(tmp_path, "val", image_size=32, val_data_root=[tmp_path]))
