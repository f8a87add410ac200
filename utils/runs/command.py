"""The command `runs`."""

from typing import Any

from . import compare, prune
from .table import find_runs, printable, table


def show(opt: Any) -> None:
    """Print every run of opt.work_dir, or what --compare or --prune ask for. Raises UserError."""
    if opt.prune:
        prune.show(opt)
    elif opt.compare:
        compare.show(find_runs(opt.work_dir, opt.compare), opt)
    else:
        print(printable(table(find_runs(opt.work_dir), opt)))
