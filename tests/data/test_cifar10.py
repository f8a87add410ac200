"""CIFAR10: its batches, their download, and files that are none of them."""

import csv
import hashlib
import os
import pickle
import tarfile
import threading
from collections import Counter
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import numpy as np
import pytest
import torch
from conftest import NO_SERVER, main
from harmful import Harm

from data import CIFAR10, cifar10
from utils import UserError
from utils.train.loader import make_loader
from utils.train.seeds import generator

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def write_batches(folder, n=20, key=lambda name: name, module=None):
    """The real files with n pictures each: protocol 2, arrays of bytes [n, 3072], labels as a list."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"batches.meta": {"num_cases_per_batch": n, "label_names": NAMES, "num_vis": 3072}}
    for number, name in enumerate([f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]):
        pixels = np.random.default_rng(number).integers(0, 256, (n, 3072), dtype=np.uint8)
        labels = [(row + number) % 10 for row in range(n)]
        contents[name] = {"batch_label": name, "labels": labels, "data": pixels, "filenames": ["x.png"] * n}
    for name, content in contents.items():
        pickled = pickle.dumps({key(field): value for field, value in content.items()}, protocol=2)
        if module:
            pickled = pickled.replace(b"numpy._core.multiarray", module).replace(b"numpy.core.multiarray", module)
        (folder / name).write_bytes(pickled)
    return folder


@pytest.fixture(scope="module")
def batches(tmp_path_factory):
    root = tmp_path_factory.mktemp("cifar")
    write_batches(root / "cifar-10-batches-py")
    return root


def test_cifar10_has_five_batches_to_train_on_and_one_for_val_and_test(batches):
    train, val, test = (CIFAR10([str(batches)], mode, image_size=32) for mode in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (100, 20, 20) and train.classes == NAMES
    raw = np.random.default_rng(1).integers(0, 256, (20, 3072), dtype=np.uint8)[3].reshape(3, 32, 32)
    picture, label = train[23]  # the fourth of data_batch_2
    assert np.array_equal(picture, raw) and picture.dtype == torch.uint8 and label == (3 + 1) % 10
    assert [test[index][1] for index in range(20)] == list(range(1, 21))
    assert len(CIFAR10(batches / "cifar-10-batches-py", "val")) == 20  # the folder itself
    assert val.picture(5)[1] == "test_batch 5"


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_batches_by_any_numpy_and_with_keys_of_bytes_are_read(tmp_path, batches, module):
    write_batches(tmp_path, key=str.encode, module=module)
    first, second = CIFAR10(tmp_path, "train"), CIFAR10(batches, "train")
    assert (
        torch.equal(first.images.pixels, second.images.pixels)
        and first.targets == second.targets
        and first.classes == NAMES
    )


def test_a_batch_as_python_2_wrote_it_is_read(tmp_path, batches):
    """Python 2's text is bytes, and so are its arrays' contents: the opcodes that Python 3 does not write any more."""
    write_batches(tmp_path)
    text = lambda value: b"U" + bytes([len(value)]) + value  # noqa: E731
    dtype = (
        b"cnumpy\ndtype\n"
        + text(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    contents = b"T" + (2 * 3072).to_bytes(4, "little") + bytes(range(256)) * 24
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01K\x02M\x00\x0c\x86" + dtype + b"\x89" + contents + b"tb"
    pickled = b"\x80\x02}(" + text(b"data") + array + text(b"labels") + b"](K\x03K\x07eu."
    (tmp_path / "test_batch").write_bytes(pickled)
    data = CIFAR10(tmp_path, "val")
    assert data.targets == [3, 7]
    assert torch.cat([data[0][0], data[1][0]]).flatten().tolist() == list(range(256)) * 24


@pytest.mark.parametrize("size", [32, 224])
def test_the_device_makes_cifar10_as_large_as_the_model_wants_it(batches, size):
    train, val = (CIFAR10(batches, mode, image_size=size, noise=0.0) for mode in ("train", "val"))
    for data, random in ((train, generator(0, 0, "cpu")), (val, None)):
        input, target = data.prepare(*next(iter(make_loader(data, 8, num_workers=0))), random)
        assert input.shape == (8, 3, size, size) and input.dtype == torch.float32 and len(target) == 8
    (sheet,) = val.draw(input, target, torch.eye(10)[target])
    assert sheet.shape[0] == 3 and sheet.shape[2] == 4 * ((160 if size == 32 else 224) + 8)


def test_cifar10_takes_val_size_and_resampling_too(batches):
    val = CIFAR10(batches, "val", val_size=13)
    assert len(val) == val.images.shape[0] == 13 and set(val.targets) == set(range(10))
    whole = CIFAR10(batches, "val")
    assert all(torch.equal(val[index][0], whole[int(path.split()[1])][0]) for index, path in enumerate(val.paths))
    assert CIFAR10(batches, "train", class_weights=True).weights == [10.0] * 10
    train = CIFAR10(batches, "train", resample="mean")
    drawn = Counter(train.targets[index] for index in train.order(generator(0, 0, "cpu")).tolist())
    assert drawn == dict.fromkeys(range(10), 10)


def test_cifar10_results_name_the_class(batches, tmp_path):
    test = CIFAR10(batches, "test")
    test.write_results(tmp_path / "result.csv", iter([([1, 2], torch.eye(10)[[3, 9]]), ([3], torch.eye(10)[[0]])]))
    assert (tmp_path / "result.csv").read_bytes() == b"id,label\r\n1,cat\r\n2,truck\r\n3,airplane\r\n"


@pytest.mark.parametrize("name", ["batches.meta", "data_batch_3"])
def test_a_pickle_that_would_run_a_command_is_refused_and_does_not(tmp_path, name):
    write_batches(tmp_path)
    for protocol in (0, 2, 4):
        harm = {"data": Harm(os.system, f"touch {tmp_path}/harm"), "label_names": Harm(eval, "1")}
        (tmp_path / name).write_bytes(pickle.dumps(harm, protocol=protocol))
        with pytest.raises(UserError, match=rf"{name} is refused: it asks for \w+\.system, .* may do harm"):
            CIFAR10(tmp_path, "train")
    assert not (tmp_path / "harm").exists()
    with pytest.raises(UserError, match=f"{name} is refused: it asks for (__builtin__|builtins).eval"):
        (tmp_path / name).write_bytes(pickle.dumps(Harm(eval, "1/0"), protocol=2))
        CIFAR10(tmp_path, "train")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>not a batch</html>",
        pickle.dumps([1, 2], protocol=2),
        pickle.dumps({"labels": [1]}, protocol=2),
        pickle.dumps({"data": np.zeros((1, 3072), np.float32), "labels": [1]}, protocol=2),
        pickle.dumps({"data": Harm(np.ndarray, (1, 3072), "f4"), "labels": [1]}, protocol=2),
        pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1], "x": np.array([None])}, protocol=2),
        pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, protocol=2),
        pickle.dumps({"data": np.zeros((1, 3000), np.uint8), "labels": [1]}, protocol=2),
        pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, protocol=2),
        pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": ["cat"]}, protocol=2),
        pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1]}, protocol=2)[:2000],
    ],
)
def test_damaged_batches_are_one_line(tmp_path, content):
    write_batches(tmp_path)
    (tmp_path / "data_batch_4").write_bytes(content)
    with pytest.raises(UserError, match="^.*/data_batch_4 is damaged or no CIFAR-10 batch: .* --download$"):
        CIFAR10(tmp_path, "train")


def test_what_is_missing_is_named_with_the_option_that_fetches_it(tmp_path):
    with pytest.raises(UserError, match="nowhere has no cifar-10-batches-py .*--download"):
        CIFAR10([tmp_path / "nowhere"], "train")
    assert not (tmp_path / "nowhere").exists()
    write_batches(tmp_path)
    (tmp_path / "data_batch_5").unlink()
    with pytest.raises(UserError, match="data_batch_5 is missing"):
        CIFAR10(tmp_path, "train")
    with pytest.raises(UserError, match="CIFAR10 takes one folder, not a, b"):
        CIFAR10(["a", "b"], "train")


def test_download_unpacks_what_has_the_published_sum_and_nothing_else(tmp_path, monkeypatch):
    write_batches(tmp_path / "cifar-10-batches-py", n=2)
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "cifar-10-batches-py", "cifar-10-batches-py")
    server = HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(cifar10, "URL", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    with pytest.raises(UserError, match="cannot be fetched into .*unpack it there by hand$"):
        CIFAR10([tmp_path / "wrong"], "train", download=True)
    assert not (tmp_path / "wrong" / "cifar-10-batches-py").exists()
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(CIFAR10([tmp_path / "new"], "train", download=True)) == 10
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cifar-10-batches-py"]
    server.shutdown()
    server.server_close()
    assert len(CIFAR10([tmp_path / "new"], "train", download=True)) == 10  # there already: nothing is fetched
    with pytest.raises(UserError, match="127.0.0.1.* cannot be fetched into .*refused"):
        CIFAR10([tmp_path / "offline"], "train", download=True)


@pytest.mark.parametrize("size, model", [(32, "ResNet34"), (224, "SqueezeNet")])
def test_cifar10_trains_and_tests_by_its_preset(tmp_path, size, model):
    batches = write_batches(tmp_path / "cifar-10-batches-py", n=8)
    small = [f"--image-size={size}", f"--model={model}", "--max-epoch=1", "--batch-size=20", "--num-workers=0"]
    main("train", "--config=CIFAR10", f"--train-data-root={batches}", *small, NO_SERVER, cwd=tmp_path, check=0)
    (run,) = (tmp_path / "checkpoints").iterdir()
    with open(run / "confusion.csv", newline="") as file:
        assert next(csv.reader(file))[1:] == NAMES
    main("test", f"--test-data-root={batches}", cwd=tmp_path, check=0)
    with open(tmp_path / "result.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [str(number) for number in range(1, 9)]
    assert {row["label"] for row in rows} <= set(NAMES)
