"""Several processes by an option, without torchrun's command line: this program becomes their launcher."""

import logging
import os
import sys
import uuid
from typing import Any

from utils import UserError
from utils.notices import counted


def several(opt: Any) -> None:
    """Where --gpus or --processes ask for several processes, start this program that often under torchrun's own
    launcher, and exit when they have ended: what stands behind this call is reached by those processes alone.

    Raises UserError for GPUs that are not there.
    """
    if "WORLD_SIZE" in os.environ or not (opt.gpus or opt.processes > 1):
        return
    import torch
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    count = opt.processes
    if opt.gpus:
        there = [str(number) for number in range(torch.cuda.device_count())]
        chosen = there if opt.gpus == ["all"] else opt.gpus
        if not chosen or not set(chosen) <= set(there):
            raise UserError(
                f"--gpus={','.join(opt.gpus)}: torch can use {counted(len(there), 'GPU')} here: leave it out"
            )
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(chosen)
        count = len(chosen)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    logging.disable(logging.ERROR)  # the processes speak for themselves
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, sys.executable)(*sys.argv)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    sys.exit()
