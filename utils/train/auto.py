"""What is "auto" in a training: the options that are chosen by measurement, before its first step."""

from typing import Any

from . import batch_size, precision, processes


def settle(opt: Any, model: Any, train_data: Any) -> None:
    """Let opt.precision, and the model's, opt.batch_size, and with that opt.lr, become what the training uses: what was
    asked for, or for "auto" what is fast here; of several processes the first decides. Nothing else of the model
    changes, nor do random numbers."""
    on_main = processes.current().on_main
    opt.assign(precision=on_main(precision.choose, opt, model, train_data))
    model.precision = opt.precision
    size, lr = on_main(batch_size.choose, opt, model, train_data)
    opt.assign(batch_size=size, lr=lr)


def of_run(opt: Any, record: dict[str, Any]) -> dict[str, Any]:
    """{option: value} of what is "auto" in the options, as it became in the run with this record of its options; with
    the batch size its learning rate, unless another one is asked for."""
    found = [name for name in ("precision", "batch_size") if getattr(opt, name) == "auto"]
    found += ["lr"] if "batch_size" in found and "lr" not in opt.asked else []
    return {name: record[name] for name in found if name in record}
