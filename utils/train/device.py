"""The device that computes: whether a GPU can be used, in which precision, and how tensors and batches get there."""

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.utils import vector_to_parameters
from torch.utils._pytree import tree_map_only

from utils import UserError
from utils.notices import warn

BLOCK = 64  # rows of numbers that wait on the device before they are fetched in one go


@functools.cache
def has_gpu() -> bool:
    """Whether there is a GPU that this torch has code for; one warning names a GPU that it has none for."""
    if not torch.cuda.is_available():
        return False
    major, minor = torch.cuda.get_device_capability()
    matches = [re.match(r"(sm|compute)_(\d+)", name) for name in torch.cuda.get_arch_list()]
    codes = [(code[1], int(code[2])) for code in matches if code]  # AMD's have other names
    # Machine code runs on newer GPUs of its major version; what is compiled when it is loaded, on all newer ones.
    found = 10 * major + minor
    fits = (code <= found and (kind == "compute" or code // 10 == major) for kind, code in codes)
    if codes and not any(fits):
        warn(
            f"{torch.cuda.get_device_name()} (compute capability {major}.{minor}) is none of those that torch "
            f"{torch.__version__} was built for: using the CPU; a torch built for another version of CUDA may "
            "use it, see https://pytorch.org/get-started/previous-versions"
        )
        return False
    return True


def pick_device(use_gpu: bool, asked: bool) -> torch.device:
    """The GPU where it is wanted and there, else the CPU; a warning when the user `asked` for a GPU in vain."""
    device = torch.device("cuda" if use_gpu and has_gpu() else "cpu")
    if asked and use_gpu and device.type == "cpu":
        warn("--use-gpu=True, but torch can use no GPU here: using the CPU")
    return device


def pick_precision(wanted: str, device: torch.device) -> str:
    """fp32, bf16 or fp16: what was wanted, or for "auto" the lowest that this device computes natively. Prints it."""
    precision, why = wanted, ""
    if wanted == "auto":
        precision, why = native_precision(device), ", the lowest precision that it computes natively (--precision=auto)"
    print(f"computing on {named(device)} in {precision}{why}")
    return precision


def named(device: torch.device) -> str:
    """The device in words."""
    return "a GPU" if device.type == "cuda" else "the CPU"


def native_precision(device: torch.device) -> str:
    """The lowest precision that the device computes natively and training tolerates."""
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability(device) >= (7, 0) else "fp32"
    known = torch.cpu.get_capabilities()
    return "bf16" if known.get("avx512_bf16") or known.get("amx_bf16") else "fp32"


def to_device(batch: Any, device: torch.device | str) -> Any:
    """Move the tensors of a batch (tensor, list, tuple or dict of them) to `device`; anything else stays as it is."""
    # An asynchronous copy to the CPU would be read before it is complete.
    asynchronous = torch.device(device).type != "cpu"
    return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device, non_blocking=asynchronous), batch)


def device_of(model: torch.nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next(model.parameters()).device


def prepared(dataset: Any, batch: Any, device: torch.device, generator: torch.Generator | None = None) -> Any:
    """A collated batch -> (input, target) on the device, as the model takes them; `generator` draws augmentation."""
    return dataset.prepare(*to_device(batch, device), generator=generator)


def one_batch(dataset: Any, indices: Iterable[int], device: torch.device) -> Any:
    """prepared() of the samples with these indices."""
    return prepared(dataset, dataset.collate([dataset[index] for index in indices]), device)


@contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Within the block the model is in eval mode, afterwards each of its modules in the mode that it was in."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Within the block the model is in eval mode and computes normal tensors, even inside inference_mode; afterwards
    its mode, module by module, and the random generators are as they were."""
    devices = {parameter.device.index for parameter in model.parameters() if parameter.is_cuda}
    with torch.random.fork_rng(sorted(devices)), torch.inference_mode(False), eval_mode(model):
        yield


class DeviceNumbers:
    """Rows of scalars that wait on the device, BLOCK of them at most, until they are fetched in one go: to fetch each
    would make the host wait for the device in every step.

    Args:
        take: called with (key, {name: float}) of every row, in order, when rows are fetched.
    """

    def __init__(self, take: Callable[[Any, dict[str, float]], None]):
        self.take = take
        self.rows: list[tuple[Any, torch.Tensor]] = []
        self.names: list[str] = []

    def add(self, key: Any, numbers: dict[str, torch.Tensor]) -> None:
        """Add one row, {name: scalar tensor}."""
        if len(self.rows) == BLOCK or [*numbers] != self.names:
            self.fetch()
        self.names = [*numbers]
        self.rows.append((key, torch.stack([value.detach().float() for value in numbers.values()])))

    def fetch(self) -> None:
        """Hand all rows to `take`; none wait afterwards."""
        rows, self.rows = self.rows, []
        values = torch.stack([row for _, row in rows]).tolist() if rows else []
        for (key, _), numbers in zip(rows, values, strict=True):
            self.take(key, dict(zip(self.names, numbers, strict=True)))


def flatten_buffers(buffers: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Flat tensors, one for each dtype; the buffers become views of them, so that few operations reach all."""
    groups: dict[torch.dtype, list[torch.Tensor]] = {}
    for buffer in buffers:
        groups.setdefault(buffer.dtype, []).append(buffer)
    flat = []
    for group in groups.values():
        flat.append(torch.cat([buffer.flatten() for buffer in group]))
        vector_to_parameters(flat[-1], group)  # torch's name: buffers become views just as well
    return flat


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile(function); prints how long the first call took, which compiles. Raises UserError where it cannot be
    compiled."""
    fast, started = torch.compile(function), False

    def call(*arguments: Any) -> Any:
        nonlocal started
        if started:
            return fast(*arguments)
        started, begin = True, time.perf_counter()
        try:
            result = fast(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = next(line for line in str(error).splitlines() if line.strip())
            raise UserError(f"--compile fails here, torch's compiler reports: {reason}; leave it out") from None
        print(f"compiled, and the first step computed, in {time.perf_counter() - begin:.1f} s")
        return result

    return call
