"""Whether a model learns: its first loss, a few samples by heart, the first steps at the learning rate asked for."""

import math
from collections.abc import Iterator
from typing import Any

import torch

from utils.train.schedule import Schedule
from utils.train.step import TrainStep
from utils.train.trial import take

from .case import Case
from .finding import LOOK, OK, WRONG, Finding, failed

STEPS, SAMPLES = 60, 8  # to learn by heart
RATES = 1e-3, 1e-2, 1e-4  # of Adam, one after the other until one of them does it
LEARNED, FALLEN = 0.2, 0.7  # of the first loss: what counts as learned by heart, and as learning
FEW = 20  # steps from which on it has to have fallen
TRIED, EXPLODED = 8, 10.0  # steps at the learning rate asked for; times the first loss
FAILED = "some steps"  # the name of the Finding on a model that fails after the first one


def check(case: Case) -> Iterator[Finding]:
    """Yield the Findings on how a copy of the model learns."""
    for part in (first_loss, by_heart, first_steps):
        try:
            yield part(case)
        except Exception as error:  # a model may raise anything, and only after some steps
            yield failed(FAILED, error)
            return


def first_loss(case: Case) -> Finding:
    """Whether a new model knows nothing: its loss is about ln C."""
    name = "loss at the start"
    with case.copy() as model, torch.no_grad(), model.autocast():
        score, losses = model.objective(*next(case.batches(1)))
    loss = sum(losses.values()).item()
    known = {"bce": 2} | ({"cross_entropy": score.shape[1]} if isinstance(score, torch.Tensor) else {})
    classes = known.get("+".join(case.losses))
    if case.start or not classes:
        return Finding(name, OK, f"{loss:.4g}")
    usual = math.log(classes)
    found = f"{loss:.4g}, where a model that knows nothing has ln {classes} = {usual:.4g}"
    if loss > 2 * usual + 1:
        return Finding(name, LOOK, found, "the last layer begins with too large weights")
    if loss < usual / 2:
        return Finding(name, LOOK, found, "it knows something already: do the pictures show the labels?")
    return Finding(name, OK, found)


def by_heart(case: Case) -> Finding:
    """Whether a few samples, not augmented, can be learned by heart."""
    name = "a batch by heart"
    input, target = case.few(SAMPLES)
    steps, count = case.bounded(STEPS, len(target))
    input, target = input[:count], target[:count]
    best, losses = math.inf, [math.nan]
    for rate in RATES:
        losses, right = memorized(case, input, target, rate, steps)
        best = min(best, losses[-1] / losses[0]) if math.isfinite(losses[-1]) else best
        samples = f"{count} samples in {len(losses) - 1} steps, loss {losses[0]:.3g} -> {losses[-1]:.3g}"
        if right or losses[-1] <= LEARNED * losses[0]:
            return Finding(name, OK, f"yes, {samples}")
    found = f"{count} samples in {steps} steps, loss to {100 * best:.0f} % of the first"
    if best <= FALLEN:
        return Finding(name, OK, f"on the way, {found}")
    verdict = WRONG if steps >= FEW else LOOK
    return Finding(name, verdict, f"no, {found}", "does forward use its input, are the targets those of the input?")


def memorized(case: Case, input: Any, target: Any, rate: float, steps: int) -> tuple[list[float], bool]:
    """(the losses before each of the steps of Adam and after the last, whether all predictions are right at the end)
    of a copy; where targets are no classes the second is False."""
    with case.copy() as model:
        optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=rate)
        losses, score = [], torch.zeros(())
        for step in range(steps + 1):
            torch.manual_seed(case.opt.seed)  # dropout, and what a detector samples: the same task in every step
            with model.autocast():
                score, parts = model.objective(input, target)
            loss: Any = sum(parts.values())
            losses.append(loss.item())
            if step == steps or not math.isfinite(losses[-1]):
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    classes = isinstance(score, torch.Tensor) and isinstance(target, torch.Tensor) and target.dtype == torch.int64
    varied: Any = score if classes and score.ndim == 2 and len(target.unique()) > 1 else None
    right = varied is not None and bool((varied.argmax(dim=1) == target).all())
    return losses, right and losses[-1] < losses[0]


def first_steps(case: Case) -> Finding:
    """Whether the loss explodes in the first steps, made as a training makes them."""
    losses = []
    with case.copy() as model:
        optimizer = case.optimizer(model)
        schedule = Schedule(optimizer, steps_per_epoch=len(case.loader()), **case.opt.kwargs_for(Schedule))
        step = TrainStep(model, optimizer, precision=model.precision, clip_grad=case.opt.clip_grad)
        for number, batch in enumerate(case.batches(TRIED)):
            schedule.step(0, number)
            losses.append(take(step, number, batch))
    found = f"lr {case.opt.lr:g}: loss {losses[0]:.3g} -> {losses[-1]:.3g} in {len(losses)} steps"
    last = sorted(losses[-3:])[len(losses[-3:]) // 2]
    if not math.isfinite(sum(losses)) or last > EXPLODED * losses[0]:
        return Finding("learning rate", WRONG, f"the loss explodes, {found}", "a smaller --lr, or --warmup-epochs=1")
    return Finding("learning rate", OK, found)
