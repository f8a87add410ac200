"""Pictures decoded once: one file of their pixels beside an index of what is in it.

<name>.u8 holds nothing but the rows, uint8 [N, H, W, C]; <name>.json says which files they are. Data sets read their
pictures from `rows`, which open_rows makes: rows[[3, 1, 4]] is a uint8 tensor [3, H, W, C] of its own, whether the rows
are packed (Pack), decoded when they are asked for (Decoded) or in memory (Held).
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import time
import warnings
import weakref
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from utils import UserError
from utils.files import megabytes, write_atomically

from .samples import note

try:
    import fcntl
except ImportError:  # Windows, where nothing is packed
    fcntl = None

VERSION = 1  # of the two files
DISK_SHARE = 0.5  # of what is free on the disk a pack takes so much at most
DEVICE_SHARE = 0.2  # and the pictures of each mode so much of a GPU's free memory, unless they are told to
PIECE = 2_000_000  # bytes that are copied to the device at a time
say = note.__wrapped__  # what happens twice is said twice


def open_rows(sources, read, side, name, pack=False, pack_dir="packs", targets=(), channels=3, also=()):
    """The pictures of a data set: (rows, facts).

    With `pack` they come from the pack in `pack_dir`, which is made where there is none of just these files as they
    are now. Where that cannot be, a note says why, and every file is decoded once, to know the broken ones.

    Args:
        sources: the file, or tuple of files, of each sample.
        read: a function of (source, side) -> (uint8 array [side, side, channels], a fact: None or what JSON keeps); it
            raises where the source cannot be used. Its name is part of what a pack is known by.
        side: height and width of every row, pixels.
        name: what the pack's files are called, before the side and a hash.
        targets: the labels or ids, for whoever reads the index; the data set does not.
        also: more sources, of which the facts alone are wanted.

    Returns:
        rows: rows[indices] as above, by the sources' numbers. Those of broken ones must not be asked for, see `keep`.
        facts: what `read` said of each of `sources` and then of `also`, text where it raised: what is wrong.
    """
    decoded = Decoded(sources, read, (side, side, channels))
    if pack and sources:
        try:
            return open_pack(Path(pack_dir, f"{name}_{side}"), decoded, list(targets), also)
        except OSError as error:
            why = f"{name} is not packed into {pack_dir} ({error})"
            say(f"{why}: its pictures are decoded whenever they are used; --pack-dir names another folder")
    return decoded, [fact for _, fact in in_threads(decoded.attempt, [*sources, *also])]


class Decoded:
    """Rows that are decoded whenever they are asked for, by a function as open_rows takes."""

    def __init__(self, sources, read, shape):
        self.sources, self.read, self.shape = sources, read, (len(sources), *shape)

    def __getitem__(self, indices):
        rows = [self.read(self.sources[index], self.shape[1])[0] for index in indices]
        return torch.from_numpy(np.stack(rows))

    def attempt(self, source, strict=False):
        """(row, fact) of a source, or (None, what is wrong with it). When `strict`, a failure of the machine and not of
        what is in the file (no permission, a disk that does not answer) is raised: it may be over soon."""
        try:
            return self.read(source, self.shape[1])
        except Exception as error:  # decoders raise anything: OSError, SyntaxError, ValueError, struct.error, ...
            cause = error.__cause__ or error
            if strict and isinstance(cause, OSError) and cause.errno not in (None, errno.ENOENT):
                raise cause from None
            return None, str(error)

    def keep(self, kept):
        """Leave nothing but the rows with these numbers, in this order."""
        self.sources = [self.sources[index] for index in kept]
        self.shape = len(kept), *self.shape[1:]


class Pack:
    """Rows in a file. A forked worker reads the same open file, an unpickled Pack opens it again.

    They are read and not mapped: to map them takes 1.2 to 1.6 times as long and as much memory as was read, or 2 to 5
    times as long without that (benchmarks/pack.py); and a disk that fails would be the process's end, not an OSError.

    Args:
        path: the file.
        shape: (H, W, C) of each row.
        places: numpy array of int, the place of each row in the file.
        stamp: [size, time of change in ns] that the file must have, or None.

    Raises OSError when it cannot be opened, UserError when it is not the file that it was.
    """

    def __init__(self, path, shape, places, stamp=None):
        self.path, self.places, self.shape = path, places, (len(places), *shape)
        self.file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.file)
        status = os.fstat(self.file)
        self.stamp = [status.st_size, status.st_mtime_ns]
        if self.stamp != (stamp or self.stamp):
            raise UserError(f"{path} was changed while it was in use: start again")

    def __reduce__(self):
        return Pack, (self.path, self.shape[1:], self.places, self.stamp)

    def __getitem__(self, indices):
        rows = np.empty((len(indices), *self.shape[1:]), dtype=np.uint8)
        for row, place in zip(rows, self.places[indices].tolist(), strict=True):
            try:
                size = os.preadv(self.file, [row], place * row.nbytes)
            except OSError as error:
                raise UserError(f"{self.path} cannot be read: {error.strerror}; --pack=False does without") from None
            if size < row.nbytes:
                raise UserError(f"{self.path} was cut off while it was read: start again, and it is made anew")
        return torch.from_numpy(rows)

    def keep(self, kept):
        """Leave nothing but the rows with these numbers, in this order."""
        self.places = self.places[kept]
        self.shape = len(kept), *self.shape[1:]


class Held:
    """Rows in memory, the computer's or a GPU's: a uint8 tensor [N, H, W, C]."""

    def __init__(self, pixels):
        self.pixels, self.shape = pixels, tuple(pixels.shape)

    def __getitem__(self, indices):
        # index_select is several times as fast as pixels[indices]; the GPU is not waited for.
        return self.pixels.index_select(0, torch.tensor(indices).to(self.pixels.device, non_blocking=True))


def fits(rows, device, cache):
    """Whether `rows` are to be held in the memory of `device`: cache device says yes, none no, and auto where it is a
    GPU of whose free memory they take a fifth at most."""
    if cache != "auto" or device.type != "cuda":
        return cache == "device"
    return math.prod(rows.shape) <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]


def hold(rows, device):
    """All of `rows` on the device, as Held; what is copied at a time is small. Raises UserError where there is no
    room."""
    count, height, width, _ = rows.shape
    size = f"{count} pictures of {height} x {width}, {megabytes(math.prod(rows.shape))},"
    try:
        pixels = torch.empty(rows.shape, dtype=torch.uint8, device=device)
    except RuntimeError:
        raise UserError(f"{size} have no room in the memory of {device}: give --cache=none") from None
    step = max(1, PIECE // math.prod(rows.shape[1:]))
    pieces = [range(start, min(start + step, count)) for start in range(0, count, step)]
    for piece, part in zip(pieces, in_threads(lambda piece: rows[list(piece)], pieces), strict=True):
        pixels[piece.start : piece.stop] = part
    say(f"{size} are held in the memory of {device}")
    return Held(pixels)


def in_threads(function, arguments):
    """Yield function(argument) of each in order, from threads, which Pillow lets run side by side; a few are ahead."""
    threads = min(16, os.cpu_count() or 1)
    pool, ahead = ThreadPoolExecutor(threads), deque()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's notes on odd metadata
            for argument in arguments:
                ahead.append(pool.submit(function, argument))
                if len(ahead) > 4 * threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
    finally:  # after Ctrl-C too, and then at once
        pool.shutdown(cancel_futures=True)


# --- the two files


def open_pack(path, decoded, targets, also):
    """open_rows from a pack whose name begins with `path`. Raises OSError when there is none and none can be made."""
    if not fcntl:
        raise OSError("this system cannot lock files")
    fit = f"{decoded.read.__name__} {decoded.shape}"
    names, key = fingerprints([*decoded.sources, *also], fit)
    path = path.with_name(f"{path.name}_{names}.u8")
    found = load(path, key, targets)
    if not found:
        path.parent.mkdir(parents=True, exist_ok=True)
        with only_packer(path) as file:
            found = load(path, key, targets)  # another process may have been first
            if not found:
                begin = time.monotonic()
                write(file, path, {"version": VERSION, "key": key, "fit": fit, "targets": targets}, decoded, also)
                found = load(path, key, targets)
                if not found:
                    raise OSError(f"{path} cannot be read back")
                rows, _ = found
                size = f"{(rows.places >= 0).sum()} pictures into {path}, {megabytes(rows.stamp[0])}"
                say(f"packed {size}, in {time.monotonic() - begin:.1f} s")
    return found


def fingerprints(sources, options):
    """(8 digits that follow from the files' paths and the options, a hash of these and the files' sizes and times)."""
    names, state = hashlib.sha256(options.encode()), hashlib.sha256(f"{VERSION} {options}".encode())
    for path in (path for source in sources for path in files_of(source)):
        text = os.fsencode(os.path.abspath(path)) + b"\0"
        names.update(text)
        try:
            status = os.stat(path)
            text += f"{status.st_size} {status.st_mtime_ns}\0".encode()
        except (OSError, ValueError):  # broken; one day it may be there
            pass
        state.update(text)
    return names.hexdigest()[:8], state.hexdigest()


def files_of(source):
    """The files of a source, which is one or a tuple of them."""
    return source if isinstance(source, tuple) else (source,)


def load(path, key, targets):
    """(Pack, facts), or None where there is no pack of that key.

    Of a file that was changed, or copied, after it was packed the rows' checksums decide.
    """
    index = read_index(path)
    if index is None or index["key"] != key or not path.exists():
        return None
    whole = np.array([value is not None for value in index["checksums"]])
    rows = Pack(path, index["shape"][1:], np.where(whole, whole.cumsum() - 1, -1))
    if rows.stamp != index["stamp"] and not intact(rows, index):
        return None
    if (rows.stamp, targets) != (index["stamp"], index["targets"]):  # copied; or labelled anew
        with contextlib.suppress(OSError):
            write_index(path, {**index, "stamp": rows.stamp, "targets": targets})
    return rows, index["facts"]


def intact(rows, index):
    """Whether the file has the size that it should, and every row its checksum."""
    if rows.stamp[0] != math.prod(index["shape"]):
        return False
    whole = [(row, value) for row, value in enumerate(index["checksums"]) if value is not None]
    return all(in_threads(lambda one: zlib.crc32(rows[[one[0]]].numpy()) == one[1], whole))


@contextlib.contextmanager
def only_packer(path):
    """The temporary file for a pack at `path`, open, for one process at a time; another one waits, with a note.

    The file itself is locked: when its process is killed the next one gets it, and writes over what is there. It is
    removed at the end, unless it has become the pack.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    while True:
        with open(temporary, "r+b", opener=lambda path, flags: os.open(path, flags | os.O_CREAT, 0o666)) as file:
            if not lock(file):
                say(f"another process is packing {path}: waiting for it")
                lock(file, wait=True)
            if not same_file(file, temporary):  # meanwhile it became the pack, or was removed
                continue
            try:
                sweep(path, temporary)
                yield file
            finally:
                if same_file(file, temporary):
                    temporary.unlink()
            return


def lock(file, wait=False):
    """Whether this process has the file for itself now. Raises OSError where files cannot be locked."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False


def same_file(file, path):
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def sweep(path, temporary):
    """Remove what killed processes left: files of this pack's index, and other packs that nobody is writing."""
    for left in path.parent.glob(f"{path.stem}.json.*.tmp"):
        left.unlink(missing_ok=True)
    for left in path.parent.glob("*.u8.tmp"):
        if left != temporary:
            with contextlib.suppress(OSError), open(left, "r+b") as file:
                if lock(file):
                    left.unlink()


def write(file, path, index, decoded, also):
    """Decode everything into the open temporary file and make a pack of it. Raises OSError; then there is none.

    It takes the place of an old one, which is removed first, to make room: nobody can use it any more.
    """
    old = read_index(path)
    if path.with_suffix(".json").exists():
        why = "the pictures have changed" if old and old["key"] != index["key"] else "it is damaged"
        say(f"{path} is made anew: {why}")
    for part in (path.with_suffix(".json"), path):
        part.unlink(missing_ok=True)

    file.truncate(0)
    size, free = math.prod(decoded.shape), shutil.disk_usage(path.parent).free
    if size > DISK_SHARE * free:
        raise OSError(f"it would take {megabytes(size)}, more than half of the {megabytes(free)} free in {path.parent}")
    if hasattr(os, "posix_fallocate"):  # a full disk, a quota or a limit tells now, not in an hour
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # this file system has no such thing
                raise
    checksums, facts = [], []
    sources = [*decoded.sources, *also]
    found = in_threads(lambda source: decoded.attempt(source, strict=True), sources)
    with contextlib.closing(found):
        for row, fact in tqdm(found, "packing", len(sources), unit=" pictures", leave=False, disable=None):
            facts.append(fact)
            if len(facts) <= len(decoded.sources):
                checksums.append(None if row is None else zlib.crc32(row))
                file.write(b"" if row is None else row)
    file.truncate()
    os.fsync(file.fileno())
    count = len(checksums) - checksums.count(None)
    if not count:
        raise OSError("not one picture can be decoded")
    status = os.fstat(file.fileno())
    index |= {"shape": [count, *decoded.shape[1:]], "stamp": [status.st_size, status.st_mtime_ns]}
    index |= {"sources": [[os.path.abspath(path) for path in files_of(source)] for source in sources]}
    write_index(path, {**index, "checksums": checksums, "facts": facts})
    os.replace(file.name, path)  # from now on there is a pack


def write_index(path, index):
    """Write the index of the pack at `path`, with a checksum of its own in the first line."""
    text = json.dumps(index)[1:]
    head = f'{{"checksum": {zlib.crc32(text.encode())},\n'
    write_atomically(path.with_suffix(".json"), lambda file: file.write(head + text))


def read_index(path):
    """The index of the pack at `path`, or None where there is none that is whole."""
    try:
        text = path.with_suffix(".json").read_text(encoding="ascii")
        index = json.loads(text)
        return index if index.pop("checksum") == zlib.crc32(text.partition("\n")[2].encode()) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or not one of ours
        return None
