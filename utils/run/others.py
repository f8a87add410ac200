"""Checkpoints that hearth has not written: where they come from, which weights they hold, and what is none."""

import contextlib
import hashlib
import http.client
import re
import socket
import zipfile
from pathlib import Path
from typing import Any

import torch

from utils import UserError
from utils.notices import note

from . import inert

PATIENCE = 10.0  # seconds without an answer after which an address counts as out of reach
CONVERT = "save its weights there as a state dict: torch.save({name: tensor, ...}, file)"
# How files begin that are taken for checkpoints: (offset, bytes, what it is).
FORMATS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself: fetch that with git lfs pull"),
    (0, b"<?xml", "XML, no checkpoint: of OpenVINO's models hearth takes the .openvino file that `export` wrote"),
    (0, b"<", "a web page, no checkpoint: give the address of the file itself, or fetch it in a browser"),
    (0, b"{", "JSON, no checkpoint: the weights are in another file beside it"),
    (0, b"\x89HDF", f"an HDF5 file of Keras or TensorFlow, not PyTorch's: {CONVERT}"),
    (0, b"\x93NUMPY", f"a NumPy array (.npy), not PyTorch's: {CONVERT}"),
    (0, b"GGUF", f"a GGUF file, not PyTorch's: {CONVERT}"),
    (0, b"7767517", "ncnn's text, no checkpoint: of ncnn's models hearth takes the .ncnn file that `export` wrote"),
    (4, b"TFL3", f"a TensorFlow Lite model, not PyTorch's: {CONVERT}"),
    (0, b"\x1f\x8b", "a gzip archive: unpack it and give the file in it"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive: unpack it and give the file in it"),
    (0, b"Rar!", "a RAR archive: unpack it and give the file in it"),
    (257, b"ustar", "a tar archive: unpack it and give the file in it"),
)
SUFFIXES = {
    ".onnx": f"an ONNX model, not PyTorch's: give the .pth that `export` made it of, or {CONVERT}",
    ".pb": f"a TensorFlow graph, not PyTorch's: {CONVERT}",
    ".index": f"a TensorFlow checkpoint's index, not PyTorch's: {CONVERT}",
    ".msgpack": f"a file of Flax, not PyTorch's: {CONVERT}",
    ".zip": "a zip archive: unpack it and give the file in it",
    ".pkl": f"a plain pickle, not of torch.save: {CONVERT}",
}
# In a zip archive: (end of a member's name, what it is).
MEMBERS = {
    "models/model.json": "a program of torch.export, which runs any code that is in it: give the .pth or an .onnx file",
    "model.xml": "an OpenVINO model, not PyTorch's: give the .pth that `export` made it of",
    "model.param": "an ncnn model, not PyTorch's: give the .pth that `export` made it of",
    "constants.pkl": "a TorchScript program: save its weights, torch.save(torch.jit.load(file).state_dict(), other)",
    ".npy": f"an archive of NumPy arrays (.npz), not PyTorch's: {CONVERT}",
    ".h5": f"a model of Keras, not PyTorch's: {CONVERT}",
}


def downloaded(path: str) -> Path:
    """The file of an address (https://...), fetched into torch.hub's folder unless it is there; any other path itself.

    A file that torch.hub itself has kept is taken where its name has the file's checksum, or the address is out of
    reach. Raises UserError where there is neither.
    """
    if not path.startswith(("https://", "http://")):
        return Path(path)
    folder, name = Path(torch.hub.get_dir(), "checkpoints"), Path(path).name
    # Kept under the whole address: many have a best.pth.
    file, plain = folder / f"{hashlib.sha256(path.encode()).hexdigest()[:16]}_{name}", folder / name
    if file.is_file():
        return file
    checksum = re.search(r"-([0-9a-f]{8,})\.", name)
    if checksum and plain.is_file() and sha256(plain).startswith(checksum[1]):
        return plain
    folder.mkdir(parents=True, exist_ok=True)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(PATIENCE)  # torch waits for ever
    try:
        torch.hub.download_url_to_file(path, str(file))
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if not plain.is_file():
            raise UserError(f"{path} cannot be downloaded ({reason}): fetch it elsewhere and give the file") from None
        note(f"{path} cannot be downloaded ({reason}): taking {plain}, which has its name")
        return plain
    finally:
        socket.setdefaulttimeout(before)
    return file


def sha256(file: Path) -> str:
    """A file's checksum, hexadecimal."""
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        for piece in iter(lambda: opened.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()


def read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file of that format. Raises UserError when its library is not installed."""
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise UserError(f"{file} needs a library that is not installed: pip install safetensors") from None
    return load_file(file)


def others_weights(content: Any) -> dict[str, Any]:
    """{"weights": every tensor in it by dotted names, "skipped": words for what was not read} of what torch.load
    returned."""
    skipped, parts = [], content if isinstance(content, dict) else {}
    for key, part in parts.items():
        made = inert.stand_ins(part)
        if made and not (isinstance(part, dict) and any(inert.tensors(part))):
            skipped.append(f"{key} ({', '.join(made[:3])}{', ...' if made[3:] else ''})")
    return {"weights": dict(inert.tensors(parts)), "skipped": skipped}


def part_of(weights: dict[str, Any], part: str, path: str) -> dict[str, Any]:
    """The weights whose names begin with `part` and a dot, without it. Raises UserError when there are none."""
    found = {name.removeprefix(f"{part}."): value for name, value in weights.items() if name.startswith(f"{part}.")}
    if not found:
        parts = dict.fromkeys(name.partition(".")[0] for name in weights)
        raise UserError(f"{path} has no part {part}: its parts are {', '.join(parts)}")
    return found


def what_it_is(file: Path) -> str:
    """What a file is that torch cannot read, and what to do: for "{file} is ..."."""
    with contextlib.suppress(OSError), open(file, "rb") as opened:
        start = opened.read(512)
        for offset, mark, what in FORMATS:
            if start[offset:].lstrip().startswith(mark):
                return what
        if start.startswith(b"PK"):
            with contextlib.suppress(Exception):  # a damaged one: zipfile raises more than it names
                members = zipfile.ZipFile(opened).namelist()
                for end, what in MEMBERS.items():
                    if any(name.endswith(end) for name in members):
                        return what
    return SUFFIXES.get(file.suffix, "not a whole checkpoint (cut off, damaged, or another thing): take another one")
