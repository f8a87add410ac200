"""The model and the data set that the options name: whether main.py can make them, as far as their classes show it."""

import inspect
from typing import Any

from utils import UserError


def check_parts(opt: Any, models: Any, data: Any) -> None:
    """Raise UserError, before anything is loaded, for a model or data set that breaks its contract, and for an option
    that neither of them reads. models, data: the packages whose classes the options name."""
    model, dataset = getattr(models, opt.model), getattr(data, opt.dataset)
    check_class(f"--model={opt.model}", model, models.basic_module.BasicModule)
    check_class(f"--dataset={opt.dataset}", dataset, data.base.BaseData)
    takes = "num_classes; any other argument needs a default value, or to be an option of config.py"
    check_call(f"--model={opt.model}", model, takes, num_classes=2, **opt.kwargs_for(model))
    takes = "(root, mode, **_), because it is given every option"
    check_call(f"--dataset={opt.dataset}", dataset, takes, opt.train_data_root, "train", **opt.values())
    opt.check_unused(opt.asked, model=model, dataset=dataset)


def check_class(what: str, made: Any, base: type) -> None:
    """Raise UserError unless it is a class derived from `base`, or a library's model: a partial of one."""
    cls = getattr(made, "func", made)
    if not isinstance(cls, type) or not issubclass(cls, base):
        file = f"{base.__module__.replace('.', '/')}.py"
        raise UserError(f"{what} is no {base.__name__}: make it a class derived from the one of {file}")


def check_call(what: str, made: Any, takes: str, *arguments: Any, **named: Any) -> None:
    """Raise UserError, which ends with what the constructor has to take, if it does not take these arguments."""
    try:
        inspect.signature(made).bind(*arguments, **named)
    except TypeError as error:
        raise UserError(f"{what}: its constructor cannot be called, {error}: it has to take {takes}") from None
