"""What this machine computes with: whether its GPU can be used, in which precision, and how much fits in memory."""

import functools
import gc
import re
import sys

import torch
from tqdm import tqdm

from . import UserError
from .cli import NO_MEMORY


@functools.cache
def has_gpu():
    """Whether there is a GPU that this torch has code for; one that it has none for is named in a warning, once."""
    if not torch.cuda.is_available():
        return False
    major, minor = torch.cuda.get_device_capability()
    codes = [re.match(r"(sm|compute)_(\d+)", name) for name in torch.cuda.get_arch_list()]
    codes = [(code[1], int(code[2])) for code in codes if code]  # AMD's have other names
    # Machine code runs on newer GPUs of its major version; what is compiled when it is loaded, on all newer ones.
    found = 10 * major + minor
    fits = (code <= found and (kind == "compute" or code // 10 == major) for kind, code in codes)
    if codes and not any(fits):
        print(
            f"warning: {torch.cuda.get_device_name()} (compute capability {major}.{minor}) is none of those that torch "
            f"{torch.__version__} was built for: going on with the CPU; a torch built for another version of CUDA may "
            "use it, see https://pytorch.org/get-started/previous-versions",
            file=sys.stderr,
        )
        return False
    return True


def pick_precision(wanted, device):
    """fp32, bf16 or fp16: what was wanted, or for "auto" what this device computes fastest and training bears."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16"
        return "fp16" if torch.cuda.get_device_capability(device) >= (7, 0) else "fp32"
    known = torch.cpu.get_capabilities()
    return "bf16" if known.get("avx512_bf16") or known.get("amx_bf16") else "fp32"


def out_of_memory(error):
    """Whether an error says that memory ran out."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(words in str(error) for words in NO_MEMORY)


def give_back():
    """Give unused memory back to the device, after memory ran out."""
    gc.collect()  # an error's frames may be in a circle
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


class InParts:
    """Computes batches without gradients in parts that fit in memory: all at once, as long as there is room.

    Attributes:
        most: samples at a time, where more were too many; else None.
    """

    def __init__(self):
        self.most = None

    def __call__(self, function, input, target):
        """Yield function(input, target) of each part. Raises UserError where there is no room for one sample."""
        start, end = 0, len(target)
        while start < end:
            size, result = min(self.most or end, end - start), None
            try:
                result = function(input[start : start + size], target[start : start + size])
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                reason = repr(error)
            if result is None:  # here, where the error no longer holds what filled the memory
                self._shrink(size, reason)
            else:
                start += size
                yield result

    def _shrink(self, size, reason):
        give_back()
        if size == 1:
            raise UserError(f"out of memory with one sample: take a smaller --image-size or another --model ({reason})")
        self.most = size // 2
        tqdm.write(
            f"warning: out of memory with {size} samples at a time: going on with {self.most} (--val-batch-size)",
            file=sys.stderr,
        )


in_parts = InParts()  # of this process, whose memory it is
