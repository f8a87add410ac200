"""Obey commands while a run is trained: at the end of a step, in all processes at the same one, on record."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

from utils import UserError
from utils.events import Control
from utils.notices import counted, note, warn
from utils.options.kinds import nearest
from utils.run.record import change_config
from utils.visdom.screen import read_events

from .channel import Listener, Request
from .pane import Pane

CHANGES = ("lr", "freeze", "unfreeze", "max_epoch")  # what decides about the numbers, and is made again by a replay
PAUSE = 0.05  # seconds between two looks for commands while the run is paused
NAMED = 6  # parts of a model that are listed


class Steering(Control):
    """Takes the commands of `python main.py control` (utils/steer/channel.py) and obeys after the step.

    Each is in the record (events.jsonl) with its step, and in the checkpoint. So a run that was killed makes those
    again, at their steps, that its checkpoint does not have yet; and with `replay` a new run makes those of an old one.

    Who asks for the debugger (`control --debug`) asks one of the processes: all let the others wait for it, and its
    Debugger gets the caller's terminal. That is not on record. A paused run waits again when they have left.

    Args:
        checkpoint: the Checkpoint, whose model and state are changed.
        world: the World.
        signals: the Signals, which agree once a step; they end a pause, and the run on the command `stop`.
        opt: the options; max_epoch and print_freq of them are changed. With unfreeze_epoch the model's body is frozen
            until that epoch begins, by commands on record like any other.
    """

    def __init__(self, checkpoint: Any, world: Any, signals: Any, opt: Any):
        self.checkpoint, self.world, self.signals, self.opt = checkpoint, world, signals, opt
        self.model, self.state, self.run = checkpoint.model, checkpoint.state, checkpoint.run
        self.record = self.run.folder / "events.jsonl"
        self.listener = Listener(self.run.folder, self.status, world.rank, world.size)
        self.pane = Pane(self.listener, opt, self.run.folder.name)
        self.script: list[tuple[int, dict[str, Any]]] = []
        self.paused = self.validating = self.stopped = False

    def on_train_begin(self, **_: Any) -> None:
        for _step, command in self.run.steered:
            for name in command.keys() & {"freeze", "unfreeze"}:
                self._set_trainable(command[name], name == "unfreeze")
        if self.world.main:
            own = [one for one in read_script(self.record) if one[0] >= self.run.step]
            other = read_script(Path(self.opt.replay, "events.jsonl")) if self.opt.replay else []
            known = [(step, command) for step, command in self.run.steered]
            self.script = [one for one in own or other if one not in known]
        self._exchange()  # those of the step after which the checkpoint was saved
        if self.run.step == 0 and self.opt.unfreeze_epoch:
            self._once({"freeze": body(self.model)})
        if self.opt.steer:
            try:
                self.listener.open()
            except (UserError, OSError) as error:
                if self.world.main:
                    warn(f"`control` reaches this run by files only: {error}")
            if self.world.main:
                self.pane.open()

    def on_epoch_begin(self, **_: Any) -> None:
        if self.run.batch == 0 and self.run.epoch == self.opt.unfreeze_epoch:
            self._once({"unfreeze": body(self.model)})

    def on_test_begin(self, **_: Any) -> None:
        self.validating = True

    def on_test_end(self, **_: Any) -> None:
        self.validating = False

    def on_test_summary(self, **_: Any) -> None:
        if self.world.size == 1:  # of several none may stop where the others do not
            self.signals.debugger.terminal = self.listener.caller

    def on_batch_end(self, **_: Any) -> None:
        while not self._exchange() and self.paused and not self.signals.agreed:
            time.sleep(PAUSE)

    def close(self, stopped: bool, **_: Any) -> None:
        """Tell who still waits. A run that `stop` ended raises Stopped, as after Ctrl-C: in the first process, when it
        has saved all, and not where torchrun would start it again."""
        self.listener.close()
        if self.world.main:
            self.pane.close()
            if stopped and self.stopped and not int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)):
                raise self.signals.end_by(signal.SIGINT)

    def status(self) -> str:
        """Where the run stands, in words."""
        run, typing = self.run, "at the debugger's prompt" if self.listener.caller.typing else ""
        doing = typing or ("paused" if self.paused else "validating" if self.validating else "training")
        best = "" if run.best is None else f", best {self.checkpoint.monitor} {run.best:.4g}"
        where = f"epoch {run.epoch + 1}/{self.opt.max_epoch}, {counted(run.batch, 'batch', 'batches')} of it done"
        return f"{doing}: {where}, step {run.step}, lr {self.state.schedule.lr:.4g}{best}"

    def _waiting(self) -> bool:
        if self.opt.steer:
            self.listener.look_for_files()
        return not self.listener.requests.empty()

    def _exchange(self) -> int:
        """Let all processes obey what has come to the first one. Returns whether somebody has called one of them to
        its debugger."""
        requests: list[Request] = []
        if self.world.main:
            while self.script and self.script[0][0] <= self.run.step:
                requests.append(Request(self.script.pop(0)[1]))
            while self._waiting():
                requests.append(self.listener.requests.get())
        asked, entered = self.signals.agree(bool(requests), not self.listener.caller.ended)
        if asked:
            commands = self.world.on_main(lambda: [request.command for request in requests])
            for number, command in enumerate(commands):
                answer = self._obey(command)
                if requests:
                    requests[number].reply(answer)
        if entered:
            self.world.extend_timeout()
            self.signals.debugger.terminal = self.listener.caller
        return entered

    def _once(self, command: dict[str, Any]) -> None:
        """Obey a command of the options, in every process, unless this step has it from the record."""
        if [self.run.step, command] not in self.run.steered:
            answer = self._obey(command)
            self.world.on_main(note, answer)

    def _obey(self, command: dict[str, Any]) -> str:
        """Make every change of a command, or none where one cannot be. Returns the answer."""
        acts = [(getattr(self, f"_{name}", None), value) for name, value in command.items() if name != "status"]
        if not all(act for act, _ in acts):
            return f"refused: this run knows no {' or '.join(command)}"
        try:
            for name, value in command.items():
                if check := getattr(self, f"_check_{name}", None):
                    check(value)
        except UserError as error:
            return f"refused: {error}"
        done = ", ".join(act(value) for act, value in acts if act)
        if changes := {name: value for name, value in command.items() if name in CHANGES}:
            self._write(changes, done)
        status = f"; {self.status()}" if "status" in command else ""
        return f"after step {self.run.step}: {done}{status}"

    def _write(self, command: dict[str, Any], done: str) -> None:
        """Put it on record, unless it is made again and there already."""
        self.run.steered.append([self.run.step, command])
        if self.world.main and (self.run.step, command) not in read_script(self.record):
            event = {"time": time.time(), "kind": "control", "step": self.run.step, "command": command}
            log = {"time": time.time(), "kind": "log", "win": "log_text", "text": f"step {self.run.step}: {done}"}
            try:
                with open(self.record, "ab", buffering=0) as file:
                    file.write(b"".join(json.dumps(one).encode() + b"\n" for one in (event, log)))
            except OSError as error:
                warn(f"{self.record}: {error.strerror}; the command is in the checkpoints only")

    def _lr(self, value: float) -> str:
        before = self.state.schedule.lr
        for group in self.state.optimizer.param_groups:
            group["lr"] = value  # the schedule sees that, and changes all later rates in proportion
        return f"learning rate {before:.4g} -> {value:.4g}"

    def _check_freeze(self, prefixes: list[str]) -> None:
        self._named(prefixes)
        left = [name for name, one in self.model.named_parameters() if one.requires_grad and not begins(name, prefixes)]
        if not left:
            raise UserError(f"--freeze={','.join(prefixes)} leaves nothing to train")

    def _freeze(self, prefixes: list[str]) -> str:
        return f"frozen: {counted(self._set_trainable(prefixes, False), 'weight')}"

    def _check_unfreeze(self, prefixes: list[str]) -> None:
        known = {id(one) for group in self.state.optimizer.param_groups for one in group["params"]}
        for name in self._named(prefixes):
            if id(self.model.get_parameter(name)) not in known:
                raise UserError(
                    f"{name} was frozen when the run began, the optimizer does not have it: begin a new run"
                )

    def _unfreeze(self, prefixes: list[str]) -> str:
        return f"trained again: {counted(self._set_trainable(prefixes, True), 'weight')}"

    def _check_max_epoch(self, value: int) -> None:
        if value <= self.run.epoch:
            raise UserError(f"--max-epoch={value}: epoch {self.run.epoch + 1} is under way")

    def _max_epoch(self, value: int) -> str:
        before = self.opt.max_epoch
        self.opt.assign(max_epoch=value)
        self.state.schedule.max_epoch = value
        if self.world.main:
            change_config(self.run, max_epoch=value)
        return f"{before} -> {counted(value, 'epoch')}"

    def _print_freq(self, value: int) -> str:
        self.opt.assign(print_freq=value)
        return f"a point every {counted(value, 'step')}"

    def _save(self, _: Any) -> str:
        self.checkpoint.save()
        return f"saved {self.checkpoint.last}"

    def _stop(self, _: Any) -> str:
        self.signals.agreed = self.signals.agreed or 1  # as if the debugger was left
        self.stopped = True
        return "the run ends"

    def _pause(self, _: Any) -> str:
        self.paused = True
        self.world.extend_timeout()
        return "paused, until --go-on"

    def _check_go_on(self, _: Any) -> None:
        if not self.paused:
            raise UserError("the run is not paused")

    def _go_on(self, _: Any) -> str:
        self.paused = False
        return "the run goes on"

    def _named(self, prefixes: list[str]) -> list[str]:
        """The names of the model's weights that begin so. Raises UserError where there is none."""
        names = [name for name, _ in self.model.named_parameters()]
        for prefix in prefixes:
            if not any(begins(name, [prefix]) for name in names):
                parts = dict.fromkeys(name.rpartition(".")[0] for name in names)
                hint = nearest(prefix, parts) or f"; there are {', '.join([*parts][:NAMED])}, ..."
                raise UserError(f"no weight's name begins with {prefix}{hint}")
        return [name for name in names if begins(name, prefixes)]

    def _set_trainable(self, prefixes: list[str], trainable: bool) -> int:
        names = self._named(prefixes)
        for name in names:
            self.model.get_parameter(name).requires_grad = trainable
        self.model.train()  # frozen parts go into eval mode: BatchNorm keeps its statistics
        return len(names)


def body(model: Any) -> list[str]:
    """The largest parts of a model beside its head: net.layer1 for net.layer1.0.weight, where net.fc is the head."""
    names = [name for name, _ in model.named_parameters() if not begins(name, [model.head])]
    parts = [[name[: dot.start()] for dot in re.finditer(r"\.|$", name)] for name in names]
    return [*dict.fromkeys(next(one for one in some if not begins(model.head, [one])) for some in parts)]


def begins(name: str, prefixes: list[str]) -> bool:
    """Whether a weight belongs to one of these parts: `layer1` is layer1.0.weight, and not layer10.weight."""
    return any(f"{name}.".startswith(f"{prefix.rstrip('.')}.") for prefix in prefixes)


def read_script(record: Path) -> list[tuple[int, dict[str, Any]]]:
    """[(step, command)] that a run's record has, in their order."""
    found = [event for event in read_events(record) if event.get("kind") == "control"]
    commands = [(one["step"], one["command"]) for one in found if isinstance(one.get("command"), dict)]
    return sorted(commands, key=lambda one: one[0])
