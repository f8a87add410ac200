"""Several processes that train one model together: torchrun starts them, torch.distributed connects them.

One process alone is a World of size 1, which does not wait. In a larger one all processes make the same steps with
the same weights: each computes its share of a step's samples, gradients are summed. The first writes everything.
"""

import atexit
import contextlib
import io
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from utils import UserError
from utils.notices import counted, note

from .device import has_gpu, to_device

_store: Any = None  # where the processes meet; torchrun keeps it for as long as one of them runs
DEBUGGING = timedelta(days=7)  # how long the others wait for the process at the debugger's prompt
LATE = timedelta(seconds=5)  # how long a failed training waits for what its other processes have counted


class LostProcess(UserError):
    """Another process of the training is gone; its own error, if it had one, is the cause."""


def start(use_gpu: bool = True) -> "World":
    """The World of this process, as torchrun describes it in its environment; of size 1 without torchrun.

    With a GPU for each process of this machine, each gets its own; else all compute on the CPU. What processes other
    than the first one print is dropped; their errors are not. Raises UserError.
    """
    global _store
    size, rank, local = (int(os.environ.get(name, 0)) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    on_gpus = use_gpu and has_gpu()
    if size <= 1:
        if on_gpus and torch.cuda.device_count() > 1:
            note(f"training on one of {torch.cuda.device_count()} GPUs: --gpus=all trains on all of them")
        return World()
    if on_gpus and torch.cuda.device_count() < per_machine:
        raise UserError(
            f"--nproc-per-node={per_machine}, but here are {counted(torch.cuda.device_count(), 'GPU')}: start as many "
            "processes as there are GPUs, or give --use-gpu=False"
        )
    if on_gpus:
        torch.cuda.set_device(local)
    try:
        store, *_ = next(distributed.rendezvous("env://"))
        # torchrun's store outlives a restart: without a place of its own a process may read where an old one was.
        _store = store = distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", ""), store)
        backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"process {rank} of {size} does not reach the others: {reason}") from None
    atexit.register(disconnect)  # else its threads may end the process with an abort
    if rank:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return World(rank, size)


def current() -> "World":
    """The World that `start` has made."""
    return World(distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else ALONE


def first_to_say(text: str) -> bool:
    """Whether no other process of this training has said the same: an error that all of them meet is one line."""
    with contextlib.suppress(RuntimeError):  # it is gone
        return _store is None or _store.add(text, 1) == 1
    return True


def leave() -> None:
    """End a process that has finished. Of several, without Python's own exit: now and then gloo's threads end in an
    abort there, which torchrun takes for a failure."""
    if distributed.is_initialized():
        disconnect()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def disconnect() -> None:
    """Close the connections between the processes: whoever waits for this one gets an error."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def launch_id() -> str:
    """What all processes and all restarts of one torchrun have in common, and no other torchrun; "" without one."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if name != "none":  # the id of everyone who gave none: then it is the torchrun process on this machine
        return name
    began = ""  # in a container torchrun may have the same number every time
    with contextlib.suppress(OSError):
        began = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{socket.gethostname()} {os.getppid()} {began}"


def refuse_torchrun() -> None:
    """Raise UserError under torchrun: every process would do the whole work."""
    if int(os.environ.get("WORLD_SIZE", 0)) > 1:
        raise UserError("only train shares its work between processes: leave torchrun out")


class World:
    """All processes of a training.

    Attributes:
        rank: the number of this one, from 0.
        size: how many there are.
        main: whether this is the first, which prints and writes.

    What one process calls here, all have to call. Raises UserError when another process is gone.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size, self.main = rank, size, rank == 0

    def all_reduce_sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace float32 tensors, all on the same device, by their sums over all processes.

        They travel in one piece, in a fixed order: so a resumed run adds in the same order, too.
        """
        if self.size > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            with self._waiting():
                distributed.all_reduce(flat)
            for tensor, piece in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(piece.view_as(tensor))

    def all_reduce_max(self, number: int) -> int:
        """The largest of the whole numbers that the processes bring. The GPU is not waited for."""
        return self.all_reduce_maxima(number)[0]

    def all_reduce_maxima(self, *numbers: int) -> list[int]:
        """The same for several numbers at once: the largest first one, the largest second one, ..."""
        if self.size == 1:
            return [*numbers]
        found = torch.tensor([int(number) for number in numbers])  # True and 1 would be of different lengths
        with self._waiting():
            distributed.all_reduce(found, op=distributed.ReduceOp.MAX)
        return [*found.tolist()]

    def on_main(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """The result of function(*arguments, **named), called by the first process for all; a UserError of it is raised
        in every process."""
        found: list[Any] = [None]
        if self.main:
            try:
                found = [function(*arguments, **named)]
            except UserError as error:
                found = [error]
        if self.size > 1:
            with self._waiting():
                distributed.broadcast_object_list(found)
        if isinstance(found[0], UserError):
            raise found[0]
        return found[0]

    def reduce_meters(self, *meters: Any) -> None:
        """Give the first process what all have counted; the others have counted nothing afterwards."""
        if self.size == 1:
            return
        states = [to_device(meter.state_dict(), "cpu") for meter in meters]
        everybody = [None] * self.size if self.main else None
        with self._waiting():
            distributed.gather_object(states, everybody)
        for number, meter in enumerate(meters):
            if everybody is not None:
                meter.merge([one[number] for one in everybody])  # type: ignore[index]
            else:
                meter.reset()

    def reduce_meters_late(self, position: tuple[int, ...], *meters: Any) -> bool:
        """As reduce_meters, where an error ends the training and the connections with it: by way of torchrun's store.
        Returns, in the first process, whether all processes were at this position and their counts have come."""
        if self.size == 1:
            return True
        states = [to_device(meter.state_dict(), "cpu") for meter in meters]
        names = [f"counted by {rank}" for rank in range(self.size)]
        try:
            counted = io.BytesIO()
            torch.save([list(position), states], counted)
            _store.set(names[self.rank], counted.getvalue())
            disconnect()  # others may still wait for this process
            if not self.main:
                return False
            _store.wait(names, LATE)
            found = [torch.load(io.BytesIO(_store.get(name)), weights_only=True) for name in names]
        except RuntimeError:  # one was killed, or the store is gone with torchrun
            return False
        if any(stands != list(position) for stands, _ in found):
            return False
        for number, meter in enumerate(meters):
            meter.merge([state[number] for _, state in found])
        return True

    def extend_timeout(self) -> None:
        """Wait for the other processes for as long as somebody sits at the debugger, not just for minutes."""
        if self.size > 1:
            distributed.distributed_c10d._set_pg_timeout(DEBUGGING)  # there is no public way to change it

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """The block waits for the other processes: when one of them is gone, that is a LostProcess."""
        try:
            yield
        except RuntimeError as error:
            reason = re.sub(r"^\[.*?\] ", "", str(error).strip().splitlines()[-1])  # without the line in gloo's source
            raise LostProcess(
                f"process {self.rank} of {self.size} has lost another one ({reason}) and ends too; "
                "to resume from the last checkpoint: --resume"
            ) from None


ALONE = World()
