"""Several processes that train one model together: torchrun starts them, torch.distributed carries what they say.

One process alone is a World of size 1, which has nobody to wait for. In a larger one all processes make the same steps
with the same weights: a step's samples are shared out, the gradients summed up. The first process writes everything.
"""

import atexit
import contextlib
import functools
import os
import re
import socket
import sys
from datetime import timedelta
from pathlib import Path

import torch
from torch import distributed

from . import UserError
from .device import has_gpu
from .loader import to_device

DEBUGGING = timedelta(days=7)  # so long do the others wait for the one at the debugger's prompt


def start(use_gpu=True):
    """The World of this process, as torchrun describes it in its environment; of size 1 without torchrun.

    With a GPU for each process of this machine, each gets its own; else all compute on the CPU. What processes other
    than the first one print is dropped; their errors are not.
    """
    size, rank, local = (int(os.environ.get(name, 0)) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    if size <= 1:
        return World()
    per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    on_gpus = use_gpu and has_gpu()
    if on_gpus and torch.cuda.device_count() < per_machine:
        raise UserError(
            f"--nproc-per-node={per_machine}, but this machine has {torch.cuda.device_count()} GPUs: start as many "
            "processes as there are GPUs, or give --use-gpu=False"
        )
    if on_gpus:
        torch.cuda.set_device(local)
    try:
        store, *_ = next(distributed.rendezvous("env://"))
        # torchrun's store outlives a restart: without a place of its own a process may read where an old one was.
        store = distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", ""), store)
        backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"process {rank} of {size} does not reach the others: {reason}") from None
    atexit.register(distributed.destroy_process_group)  # else its threads may end the process with an abort
    if rank:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return World(rank, size)


def leave():
    """End a process that has done all it had to. Of several, without Python's own way out: now and then gloo's threads
    end in an abort there, which torchrun takes for a failure."""
    if distributed.is_initialized():
        distributed.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def launch():
    """What all processes and all restarts of one torchrun have in common, and no other torchrun; "" without one."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if name != "none":  # the id of everyone who gave none: then it is the torchrun process on this machine
        return name
    began = ""  # in a container torchrun may have the same number every time
    with contextlib.suppress(OSError):
        began = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{socket.gethostname()} {os.getppid()} {began}"


def refuse():
    """Raise UserError under torchrun: what every process would do whole."""
    if int(os.environ.get("WORLD_SIZE", 0)) > 1:
        raise UserError("only train shares its work between processes: leave torchrun out")


def waiting(method):
    """A method that waits for the other processes; when one of them is gone, that is a UserError."""

    @functools.wraps(method)
    def wait(self, *arguments):
        try:
            return method(self, *arguments)
        except RuntimeError as error:
            reason = re.sub(r"^\[.*?\] ", "", str(error).strip().splitlines()[-1])  # without the line in gloo's source
            raise UserError(
                f"process {self.rank} of {self.size} has lost another one ({reason}) and ends too; "
                "to go on from the last checkpoint: --resume"
            ) from None

    return wait


class World:
    """All processes of a training.

    Attributes:
        rank: the number of this one, from 0.
        size: how many there are.
        main: whether this is the first, which prints and writes.

    Whatever a process calls here, all of them have to call. Raises UserError when another process is gone.
    """

    def __init__(self, rank=0, size=1):
        self.rank, self.size, self.main = rank, size, rank == 0

    def sum(self, tensors):
        """Replace float32 tensors, all on the same device, by their sums over all processes.

        In one piece, which is always made up in the same way: so a resumed run adds in the same order, too.
        """
        if self.size > 1:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            self._add_up(flat)
            pieces = flat.split([tensor.numel() for tensor in tensors])
            for tensor, piece in zip(tensors, pieces, strict=True):
                tensor.copy_(piece.view_as(tensor))

    @waiting
    def _add_up(self, flat):
        distributed.all_reduce(flat)

    @waiting
    def agree(self, number):
        """The largest of the numbers that the processes bring, a whole one. The GPU is not waited for."""
        if self.size == 1:
            return number
        numbers = torch.tensor(int(number))  # True and 1 would be of different lengths
        distributed.all_reduce(numbers, op=distributed.ReduceOp.MAX)
        return numbers.item()

    def first(self, function, *arguments):
        """function(*arguments) of the first process, for all; a UserError of it is everybody's."""
        found = [None]
        if self.main:
            try:
                found = [function(*arguments)]
            except UserError as error:
                found = [error]
        if self.size > 1:
            self._broadcast(found)
        if isinstance(found[0], UserError):
            raise found[0]
        return found[0]

    @waiting
    def _broadcast(self, objects):
        distributed.broadcast_object_list(objects)

    def merge(self, *meters):
        """Let the first process have counted what all have, and the others nothing."""
        if self.size == 1:
            return
        everybody = [None] * self.size if self.main else None
        self._gather([to_device(meter.state_dict(), "cpu") for meter in meters], everybody)
        for number, meter in enumerate(meters):
            if self.main:
                meter.merge([one[number] for one in everybody])
            else:
                meter.reset()

    @waiting
    def _gather(self, states, everybody):
        distributed.gather_object(states, everybody)

    def wait_long(self):
        """Let the others wait for this process, or it for them, for as long as somebody sits at the debugger."""
        if self.size > 1:
            distributed.distributed_c10d._set_pg_timeout(DEBUGGING)  # there is no public way to change it


ALONE = World()
