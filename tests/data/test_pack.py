"""Packs: they hold what would be decoded, and after a kill, a full disk, a change or damage the next run is right."""

import errno
import functools
import itertools
import json
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import time
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_files import content, write
from conftest import draw_folder
from drawn import draw_shapes, replace_mask
from PIL import Image

from data import CocoMask, DogCat, ImageFolder, ListFile, MaskFolder
from data.pictures import labelled, pack, picture_set
from data.pictures.images import LazyImages
from data.pictures.pack import PackedImages
from utils.notices import note
from utils.train.loader import make_loader

PICTURES, SIDE = 120, 64
processes = multiprocessing.get_context("fork")  # a process of its own, without loading torch again


@pytest.fixture(scope="session")
def many(tmp_path_factory):
    """120 JPEGs of 200 x 150, no two alike; not to be changed by a test."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(PICTURES):
        noise = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        name = f"{('cat', 'dog')[number % 2]}.{number}.jpg"
        Image.fromarray(noise).resize((200, 150)).save(folder / name, quality=90)
    return folder


@pytest.fixture(scope="session")
def expected(many):
    """Their pixels as they are without a pack."""
    return pixels(open_data(many, None))


def open_data(folder, packs):
    """All of the folder as train, packed where a folder for packs is given."""
    options = {"pack": packs is not None, "pack_dir": packs, "val_data_root": [folder]}
    return DogCat(folder, "train", image_size=SIDE * 7 // 8, **options)


@pytest.fixture(scope="module")
def sound(many, tmp_path_factory):
    """A folder with a pack; not to be changed by a test."""
    packs = tmp_path_factory.mktemp("sound")
    open_data(many, packs)
    return packs


def pixels(data):
    return data.images[list(range(len(data)))]


def same(data, other):
    """Whether two data sets have the same samples: items, batches, broken ones and classes."""
    batches = [list(make_loader(one, 4, num_workers=0)) for one in (data, other)]
    flat = [str([part for batch in some for part in batch]) for some in batches]
    tensors = [[batch[0] for batch in some] for some in batches]
    return (
        len(data) == len(other)
        and flat[0] == flat[1]
        and all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))
        and all(str(data[index]) == str(other[index]) for index in range(len(data)))
        and (data.broken, data.classes, data.weights) == (other.broken, other.classes, other.weights)
    )


def files(folder):
    return sorted(path.suffix for path in folder.iterdir()) if folder.is_dir() else []


def start(target, *arguments):
    """Call a function in a process of its own."""
    process = processes.Process(target=target, args=arguments)
    process.start()
    return process


def without_decoding(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(Image, "open", refuse)


# --- what is in a pack


def picture_folder(folder):
    draw_folder(folder, per_class=30)
    (folder / "cat.7.jpg").write_bytes(b"broken")
    return lambda mode, **options: DogCat(folder, mode, image_size=32, class_weights=True, **options)


def class_folders(folder):
    for kind in ("cat", "dog"):
        draw_folder(folder / kind, per_class=5)
    return lambda mode, **options: ImageFolder(folder, mode, image_size=32, **options)


def list_file(folder):
    draw_folder(folder, per_class=5)
    (folder / "list.txt").write_text("".join(f"{path.name} {path.name[:3]}\n" for path in sorted(folder.iterdir())))
    return lambda mode, **options: ListFile(folder / "list.txt", mode, image_size=32, **options)


def masks(folder):
    draw_shapes(folder, 40)
    replace_mask(folder, 3, np.full((60, 72), 255, np.uint8))
    (folder / "images" / "4.jpg").write_bytes(b"broken")
    return lambda mode, **options: MaskFolder(folder, mode, image_size=32, class_weights=True, **options)


def coco(folder):
    coco = content(8)
    coco["images"][2]["width"] -= 1
    file = write(folder, {**coco, "annotations": [one for one in coco["annotations"] if one["image_id"] != 3]})
    (folder / "images" / "train2017" / "000000000001.jpg").write_bytes(b"broken")
    return lambda mode, **options: CocoMask(file, mode, image_size=48, **options)


@pytest.mark.parametrize("make", [picture_folder, class_folders, list_file, masks, coco])
def test_every_data_set_reads_from_its_pack_what_it_would_decode(tmp_path, make, monkeypatch, capsys):
    open_set = make(tmp_path / "set")
    modes = ["train", "val"] + (["test"] if make in (class_folders, list_file, masks, coco) else [])
    if make is masks:
        shutil.copytree(tmp_path / "set", tmp_path / "whole")  # its masks name the classes
    plain = {mode: open_set(mode) for mode in modes}
    capsys.readouterr()
    for mode in modes:
        packed = open_set(mode, pack=True, pack_dir=tmp_path / "packs")
        assert isinstance(packed.images, PackedImages) and same(packed, plain[mode])
        assert packed.no_workers_needed == (make is not coco or mode == "test") and not plain[mode].no_workers_needed
        count = json.loads(Path(packed.images.path).with_suffix(".json").read_text())["shape"][0]
        pictures = "1 picture" if count == 1 else f"{count} pictures"
        assert f"note: packed {pictures} into {packed.images.path}, 0." in capsys.readouterr().out
    assert any(data.broken for data in plain.values()) == (make in (picture_folder, masks, coco))
    again = {mode: pickle.dumps(open_set(mode)) for mode in modes}  # what Pillow has to load for it is loaded
    assert again
    without_decoding(monkeypatch)
    for mode in modes:
        packed = open_set(mode, pack=True, pack_dir=tmp_path / "packs")
        unpickled = pickle.loads(pickle.dumps(packed))
        assert len(packed) == len(plain[mode]) and torch.equal(pixels(packed), pixels(unpickled))
        assert [str(path) for path in packed.broken] == [str(path) for path in plain[mode].broken]
    assert capsys.readouterr().out == "" and files(tmp_path / "packs") == sorted([".json", ".u8"] * len(modes))


def test_the_index_says_which_rows_are_whose(tmp_path):
    draw_folder(tmp_path / "set", per_class=12)
    (tmp_path / "set" / "dog.3.jpg").write_bytes(b"broken")
    options = {"image_size": 32, "val_data_root": [tmp_path / "set"], "pack": True, "pack_dir": tmp_path / "packs"}
    data = DogCat(tmp_path / "set", "val", **options)
    (path,) = (tmp_path / "packs").glob("DogCat_val_32_????????.json")
    index = json.loads(path.read_text())
    (broken,) = [number for number, value in enumerate(index["checksums"]) if value is None]
    assert index["facts"][broken] == "cannot identify the image: it is of no kind that Pillow can read"
    assert len(index["checksums"]) == len(index["facts"]) == 24 and index["facts"].count(None) == 23
    assert index["shape"] == [23, 32, 32, 3]
    rows = np.memmap(path.with_suffix(".u8"), np.uint8, "r", shape=tuple(index["shape"]))
    items = np.stack([data[number][0].permute(1, 2, 0) for number in range(23)])
    whole = [value for value in index["checksums"] if value is not None]
    assert np.array_equal(rows, items) and whole == [zlib.crc32(item) for item in items]


def test_a_list_with_other_labels_needs_no_other_pack(tmp_path, capsys):
    list_file(tmp_path / "set")
    path = tmp_path / "set" / "list.txt"
    lines = path.read_text().splitlines()
    options = {"image_size": 32, "val_data_root": [path], "pack": True, "pack_dir": tmp_path / "packs"}
    before = ListFile(path, "train", **options)
    path.write_text("\n".join(line.replace(" cat", " sloth") for line in lines))  # now dogs are the first class
    after = ListFile(path, "train", **options)
    assert after.classes == ["dog", "sloth"] and len(after) == 10 and not after.broken
    assert after.targets == [int(path.name.startswith("cat")) for path in after.paths]
    assert torch.equal(pixels(after), pixels(before)[[before.paths.index(path) for path in after.paths]])
    # The same pack where the order of the files, which is that of the classes, is the same.
    path.write_text("\n".join(line.replace(" cat", " bat") for line in lines))
    capsys.readouterr()
    renamed = ListFile(path, "train", **options)
    assert renamed.classes == ["bat", "dog"] and renamed.images.path == before.images.path
    assert "packed" not in capsys.readouterr().out


def test_batches_are_gathered_in_one_go_and_workers_read_the_same(many, expected, tmp_path):
    data = open_data(many, tmp_path)
    input, target = data.__getitems__([7, 7, 119, 0])
    assert input.is_contiguous(memory_format=torch.channels_last) and input.dtype == torch.uint8
    assert torch.equal(input.permute(0, 2, 3, 1), expected[[7, 7, 119, 0]])
    assert target.tolist() == [data.targets[index] for index in (7, 7, 119, 0)] and target.dtype == torch.int64
    for workers in (0, 2):
        batches = [input for input, _ in make_loader(data, 64, num_workers=workers)]
        assert torch.equal(torch.cat(batches).permute(0, 2, 3, 1), expected)
    input.zero_()  # memory of its own
    assert torch.equal(pixels(data), expected)
    alone, label = data.collate([data[3]])
    assert torch.equal(alone[0].permute(1, 2, 0), expected[3]) and label.tolist() == [data.targets[3]]
    with pytest.raises(IndexError):
        data[PICTURES]


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the process's memory is shown on Linux only")
def test_the_memory_of_an_epoch_does_not_grow_with_the_pack(tmp_path):
    peaks = []
    with open(tmp_path / "rows.u8", "wb") as file:
        file.truncate(2000 * 256 * 256 * 3)  # 393 MB, none of which is on the disk
    rows = PackedImages(tmp_path / "rows.u8", (256, 256, 3), np.arange(2000))
    resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")  # noqa: E731
    before = resident()
    for batch in np.random.default_rng(0).permutation(2000).reshape(-1, 50).tolist():
        rows[batch]
        peaks.append(resident())
    assert max(peaks) - before < 60e6


# --- killed


def test_killed_at_ten_random_moments_the_next_run_is_right(many, expected, tmp_path):
    def killed_at(number, packs):
        decoded = itertools.count(1)

        @functools.wraps(labelled.read_square)
        def read(*arguments):
            if next(decoded) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return read_square(*arguments)

        read_square, labelled.read_square = labelled.read_square, read
        open_data(many, packs)

    for number in random.Random(0).sample(range(1, PICTURES + 1), 10):
        packs = tmp_path / str(number)
        process = start(killed_at, number, packs)
        process.join()
        assert process.exitcode == -signal.SIGKILL and files(packs) == [".tmp"]
        assert torch.equal(pixels(open_data(many, packs)), expected)
        assert files(packs) == [".json", ".u8"]


@pytest.mark.parametrize("moment", ["posix_fallocate", "fsync", "the index", "replace", "the last replace"])
def test_killed_between_two_steps_the_next_run_is_right(many, expected, tmp_path, moment, capsys):
    """Where an older pack of other contents is in the way."""
    shutil.copytree(many, tmp_path / "set")
    open_data(tmp_path / "set", tmp_path / "packs")
    shutil.copyfile(many / "cat.2.jpg", tmp_path / "set" / "cat.0.jpg")

    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def half(path, write, binary=False):
        Path(f"{path}.1.tmp").write_text('{"checksum": 7,')
        die()

    def last(old, new, replace=os.replace):
        die() if str(new).endswith(".u8") else replace(old, new)

    def packing():
        others = {"the index": (pack, "write_atomically", half), "the last replace": (os, "replace", last)}
        setattr(*others.get(moment, (os, moment, die)))
        open_data(tmp_path / "set", tmp_path / "packs")

    process = start(packing)
    process.join()
    assert process.exitcode == -signal.SIGKILL and ".tmp" in files(tmp_path / "packs")
    data = open_data(tmp_path / "set", tmp_path / "packs")
    assert isinstance(data.images, PackedImages) and files(tmp_path / "packs") == [".json", ".u8"]
    names, right = [path.name for path in data.paths], expected.clone()
    right[names.index("cat.0.jpg")] = right[names.index("cat.2.jpg")]
    assert torch.equal(pixels(data), right)


def test_ctrl_c_ends_soon_and_leaves_nothing(many, tmp_path, monkeypatch):
    decoded = processes.Value("i", 0)

    def slow(path, side):
        with decoded.get_lock():
            decoded.value += 1
        time.sleep(0.05)
        return np.zeros((side, side, 3), np.uint8), None

    def packing():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
        try:
            picture_set.open_images(list(range(30_000)), slow, (8, 8), "slow", True, tmp_path / "packs")
        except KeyboardInterrupt:
            os._exit(42)

    with monkeypatch.context() as patch:
        patch.setattr(pack, "files_of", lambda source: (many / f"{source}",))
        process = start(packing)
    while decoded.value < 50:
        time.sleep(0.01)
    assert files(tmp_path / "packs") == [".tmp"]
    os.kill(process.pid, signal.SIGINT)
    process.join(timeout=60)  # all of them would take more than 90 seconds, with as many threads as there can be
    assert process.exitcode == 42 and files(tmp_path / "packs") == []


def test_what_a_killed_process_left_of_another_pack_is_removed_but_not_a_living_ones(many, tmp_path):
    for name in ("Old_train_8_01234567.u8.tmp", "Live_train_8_01234567.u8.tmp"):
        (tmp_path / name).write_bytes(bytes(1000))
    locked, done = processes.Event(), processes.Event()

    def living():
        with open(tmp_path / "Live_train_8_01234567.u8.tmp", "r+b") as file:
            pack.lock(file)
            locked.set()
            done.wait(60)

    process = start(living)
    locked.wait(60)
    open_data(many, tmp_path)
    done.set()
    process.join()
    assert [path.name for path in tmp_path.glob("*.tmp")] == ["Live_train_8_01234567.u8.tmp"]


# --- two at once


def waits(text, heard=None):
    """Print a note, as pack.note does; and say so when it is that another process is waited for."""
    note(text)
    if "another process is packing" in text:
        heard.set()


def test_of_two_at_once_one_packs_and_the_other_waits(many, expected, tmp_path, capfd):
    waiting, fsync = processes.Event(), os.fsync

    def run():
        pack.note = functools.partial(waits, heard=waiting)
        os.fsync = lambda file: fsync(file) if waiting.wait(60) else os._exit(2)
        os._exit(0 if torch.equal(pixels(open_data(many, tmp_path)), expected) else 1)

    running = [start(run) for _ in range(2)]
    for process in running:
        process.join()
    said = capfd.readouterr().out
    assert [process.exitcode for process in running] == [0, 0] and files(tmp_path) == [".json", ".u8"]
    assert said.count(f"note: packed {PICTURES} pictures") == 1
    assert said.count("note: another process is packing") == 1


def test_when_the_first_of_two_is_killed_or_fails_the_other_packs(many, expected, tmp_path, capfd, monkeypatch):
    for how in ("killed", "fails"):
        packs, begun, waiting = tmp_path / how, processes.Event(), processes.Event()

        def first(how=how, packs=packs, begun=begun, waiting=waiting):
            def wait(*_):
                begun.set()
                waiting.wait(60)
                if how == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(errno.ENOSPC, "No space left on device")

            os.fsync = wait
            open_data(many, packs)

        process = start(first)
        assert begun.wait(60)
        monkeypatch.setattr(pack, "note", functools.partial(waits, heard=waiting))
        assert torch.equal(pixels(open_data(many, packs)), expected)
        process.join()
        assert files(packs) == [".json", ".u8"]
        assert capfd.readouterr().out.count(f"another process is packing {packs}") == 1


# --- full


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of so many bytes; a test is skipped where that is not allowed."""
    mounted = []

    def mount(size):
        disk = tmp_path / "disk"
        disk.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small disk can be mounted by root alone")
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def unpacked(many, expected, packs, capsys, why):
    """Check that there is no pack, one note that says why, and the pictures all the same."""
    capsys.readouterr()
    data = open_data(many, packs)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"note: DogCat_train is not packed into {packs} (") and why in line
    assert isinstance(data.images, LazyImages) and torch.equal(pixels(data), expected) and files(packs) == []


def test_a_pack_that_would_take_more_than_half_of_the_disk_is_not_made(many, expected, small_disk, capsys):
    disk = small_disk(2_900_000)
    unpacked(many, expected, disk, capsys, "it would take 1.5 MB, more than half of the 2.9 MB free in")


def test_what_a_killed_process_left_does_not_count_as_full(many, expected, small_disk, sound):
    disk, (rows,) = small_disk(3_600_000), sound.glob("*.u8")
    shutil.copyfile(rows, disk / f"{rows.name}.tmp")
    assert torch.equal(pixels(open_data(many, disk)), expected) and files(disk) == [".json", ".u8"]


@pytest.mark.parametrize(("size", "reserve"), [(800_000, True), (800_000, False), (PICTURES * SIDE**2 * 3, True)])
def test_a_disk_that_is_full_at_once_midway_or_for_the_index_keeps_nothing(
    many, expected, small_disk, capsys, monkeypatch, size, reserve
):
    disk, room = small_disk(size), namedtuple("room", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room(10**9))  # which somebody else then fills
    if not reserve:
        monkeypatch.delattr(os, "posix_fallocate")
    unpacked(many, expected, disk, capsys, "No space left on device")


@pytest.mark.parametrize("reserve", [True, False])
def test_a_limit_on_files_keeps_nothing(many, expected, tmp_path, capfd, reserve):
    def run():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        if not reserve:
            del os.posix_fallocate
        data = open_data(many, tmp_path)
        os._exit(0 if isinstance(data.images, LazyImages) and torch.equal(pixels(data), expected) else 1)

    process = start(run)
    process.join()
    assert process.exitcode == 0 and files(tmp_path) == []
    assert capfd.readouterr().out.count("note: ") == 1
    assert torch.equal(pixels(open_data(many, tmp_path)), expected) and files(tmp_path) == [".json", ".u8"]


def test_a_folder_that_cannot_be_one_is_named(many, expected, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    unpacked(many, expected, tmp_path / "file", capsys, "File exists")


def test_a_picture_that_the_system_does_not_give_is_left_out_of_the_pack_until_it_does(tmp_path, monkeypatch, capsys):
    open_set = picture_folder(tmp_path / "set")
    original, fault = Image.open, [errno.EMFILE]  # that is of this process: soon no picture can be opened

    def fail(path, *rest):
        if str(path).endswith("cat.1.jpg"):
            raise OSError(fault[0], os.strerror(fault[0]), str(path))
        return original(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", fail)
        open_set("train", pack=True, pack_dir=tmp_path / "packs")
        assert "_train is not packed" in capsys.readouterr().out and files(tmp_path / "packs") == []
        for fault[0], packed in ((errno.EIO, 2), (errno.EACCES, 0)):  # the second time the packs are there
            data = [open_set(mode, pack=True, pack_dir=tmp_path / "packs") for mode in ("train", "val")]
            first, second = sorted(line for one in data for line in one.broken)
            assert first.endswith("/cat.1.jpg (Input/output error)") and "/cat.7.jpg (cannot identify" in second
            assert capsys.readouterr().out.count("note: packed ") == packed
            assert files(tmp_path / "packs") == [".json", ".json", ".u8", ".u8"]
    data = [open_set(mode, pack=True, pack_dir=tmp_path / "packs") for mode in ("train", "val")]
    assert [line for one in data for line in one.broken] == [second]
    assert capsys.readouterr().out.count("is made again: it lacks pictures that could not be read\n") == 1
    assert same(data[0], open_set("train", pack=False)) and len(data[0]) + len(data[1]) == 59


# --- changed and damaged


def test_changed_sources_are_noticed_and_the_old_pack_goes(tmp_path, capsys):
    folder, packs = draw_folder(tmp_path / "set", per_class=10), tmp_path / "packs"
    (folder / "dog.5.jpg").write_bytes(b"broken")
    before = open_data(folder, packs)
    assert len(before) == 19
    running = pixels(before)
    shutil.copyfile(folder / "dog.4.jpg", folder / "dog.5.jpg")  # repaired
    status = (folder / "cat.1.jpg").stat()
    shutil.copyfile(folder / "cat.2.jpg", folder / "cat.1.jpg")
    capsys.readouterr()
    after = open_data(folder, packs)
    said = capsys.readouterr().out
    assert len(after) == 20 and same(after, open_data(folder, None)) and files(packs) == [".json", ".u8"]
    assert "is made again: the pictures have changed" in said and "packed 20 pictures" in said
    assert torch.equal(pixels(before), running)  # whoever reads the old one still can
    os.utime(folder / "cat.1.jpg", ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))
    open_data(folder, packs)
    assert "packed 20 pictures" in capsys.readouterr().out
    open_data(folder, packs)
    assert capsys.readouterr().out == ""


def test_a_pack_that_lacks_pictures_is_made_again_when_a_decoder_is_installed(tmp_path, capsys, monkeypatch):
    folder, packs = draw_folder(tmp_path / "set", per_class=3), tmp_path / "packs"
    whole = (folder / "dog.1.jpg").read_bytes()
    (folder / "dog.1.jpg").write_bytes(b"HEIC")
    state = (folder / "dog.1.jpg").stat().st_mtime_ns
    assert len(open_data(folder, packs)) == 5
    (folder / "dog.1.jpg").write_bytes(whole[:4])  # broken still: the same number of bytes
    os.utime(folder / "dog.1.jpg", ns=(state, state))
    capsys.readouterr()
    open_data(folder, packs)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(pack, "decoders", lambda: ["a plugin"])
    open_data(folder, packs)
    assert "is made again: other decoders are installed" in capsys.readouterr().out
    (folder / "dog.1.jpg").write_bytes(whole)
    open_data(folder, packs)
    monkeypatch.undo()
    capsys.readouterr()
    assert len(open_data(folder, packs)) == 6 and capsys.readouterr().out == ""  # nothing to gain


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a byte": lambda rows, index: flip(rows, 1_234_567),
    "cut off": lambda rows, index: os.truncate(rows, 1_000_000),
    "longer": lambda rows, index: os.truncate(rows, 4_000_000),
    "no rows": lambda rows, index: rows.unlink(),
    "index cut off": lambda rows, index: os.truncate(index, 1000),
    "index empty": lambda rows, index: os.truncate(index, 0),
    "foreign": lambda rows, index: index.write_text('{"checksum": [1, 2]}'),
    "no dict": lambda rows, index: index.write_text("[1, 2]"),
    "binary": lambda rows, index: index.write_bytes(bytes(range(256))),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_pack_is_made_again_with_a_note(many, expected, tmp_path, sound, capsys, damage):
    packs = shutil.copytree(sound, tmp_path / "packs")
    (rows,) = packs.glob("*.u8")
    time.sleep(0.01)
    DAMAGE[damage](rows, rows.with_suffix(".json"))
    capsys.readouterr()
    data = open_data(many, packs)
    assert isinstance(data.images, PackedImages) and torch.equal(pixels(data), expected)
    said = capsys.readouterr().out
    assert said.count(f"note: {rows} is made again: it is damaged") == 1 and said.count(f"note: packed {PICTURES}") == 1
    open_data(many, packs)
    assert capsys.readouterr().out == "" and files(packs) == [".json", ".u8"]


def test_a_changed_byte_anywhere_in_the_index_does_no_harm(many, expected, tmp_path, sound):
    packs, rng = shutil.copytree(sound, tmp_path / "packs"), random.Random(1)
    (index,) = packs.glob("*.json")
    for share in [0, 1e-4, 4e-4, 0.9999, 1, *(rng.random() for _ in range(5))]:
        flip(index, round(share * (index.stat().st_size - 1)))
        assert torch.equal(pixels(open_data(many, packs)), expected)


def test_a_changed_fact_in_the_index_is_no_fact(tmp_path):
    open_set = coco(tmp_path / "set")
    plain, options = open_set("val"), {"pack": True, "pack_dir": tmp_path / "packs"}
    path = Path(open_set("val", **options).images.path).with_suffix(".json")
    path.write_text(path.read_text().replace("[48, 64, 1]", "[48, 32, 1]"))
    assert same(open_set("val", **options), plain)


def test_a_pack_of_another_version_is_made_again(many, expected, tmp_path, sound, monkeypatch, capsys):
    packs = shutil.copytree(sound, tmp_path / "packs")
    monkeypatch.setattr(pack, "VERSION", pack.VERSION + 1)
    capsys.readouterr()
    assert torch.equal(pixels(open_data(many, packs)), expected) and files(packs) == [".json", ".u8"]
    assert f"packed {PICTURES} pictures" in capsys.readouterr().out


def test_a_copied_pack_is_checked_once_and_not_made_again(many, expected, tmp_path, sound, monkeypatch, capsys):
    (rows,) = sound.glob("*.u8")
    packs = tmp_path / "packs"
    packs.mkdir()
    for path in (rows, rows.with_suffix(".json")):
        (packs / path.name).write_bytes(path.read_bytes())  # without its time
    capsys.readouterr()
    without_decoding(monkeypatch)
    assert torch.equal(pixels(open_data(many, packs)), expected) and capsys.readouterr().out == ""
    monkeypatch.setattr(pack, "intact", None)  # not asked again
    assert torch.equal(pixels(open_data(many, packs)), expected)
    assert files(packs) == [".json", ".u8"]


def test_options_have_packs_of_their_own(many, tmp_path):
    for mode, size in (("train", 56), ("val", 64), ("train", 112)):
        DogCat(many, mode, image_size=size, val_data_root=[many], pack=True, pack_dir=tmp_path)
    names = sorted(path.name.rpartition("_")[0] for path in tmp_path.glob("*.u8"))
    assert names == ["DogCat_train_128", "DogCat_train_64", "DogCat_val_64"]


def test_packs_that_nobody_used_for_a_month_are_named_with_the_command_that_removes_them(tmp_path, capsys):
    draw_folder(tmp_path / "train", per_class=3)
    packs = tmp_path / "my packs"

    def pack_of(size):
        DogCat(tmp_path / "train", "val", image_size=size, pack=True, pack_dir=str(packs))
        return capsys.readouterr().out

    assert "not used" not in pack_of(32) + pack_of(40)
    first, second = sorted(packs.glob("*.json"))
    for index in (first, second):
        os.utime(index, (1e9, 1e9))
    assert "not used" not in pack_of(40)  # which is there and is used now
    said = pack_of(48)
    (unused,) = [index for index in (first, second) if index.stat().st_mtime < 2e9 and "_32_" in index.name]
    assert f"1 pack in {packs}, 0.0 MB, not used for 30 days; to remove: rm '{unused.with_suffix('')}'.*" in said
    command = said[said.index("rm ") :].splitlines()[0]
    subprocess.run(command, shell=True, check=True)
    assert len(list(packs.iterdir())) == 4 and "not used" not in pack_of(64)


def test_where_nothing_can_be_decoded_another_folder_is_no_advice(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    for number in range(10):
        for kind in ("cat", "dog"):
            (tmp_path / "pictures" / f"{kind}.{number}.jpg").write_text("no picture")
    data = DogCat(tmp_path / "pictures", "train", image_size=32, pack=True, pack_dir=tmp_path / "packs")
    assert len(data.broken) == len(data.ids) == 14 and "not packed" not in capsys.readouterr().out
