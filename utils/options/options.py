"""The class behind config.py's DefaultConfig: values that are checked, presets, YAML files, former spellings."""

import copy
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .. import UserError
from ..notices import counted, note_once
from .kinds import Kind, dashed, expanded, nearest
from .synonyms import meant


class Options:
    """The values of a class's options. config.py's DefaultConfig is one; a preset is a subclass of that.

    Attributes:
        explicit: names of the options that somebody set: the command line, a YAML file or the preset.
        asked: those of them that no preset set.
        found: those that the program has changed since, see `assign`, with their values before.
        command: the command of main.py that they are for, or "".
        merged: whether a run's options are below them, see `over`.
        member: whether they are for one of several models, or views, that are averaged.
    """

    _rules = tuple[Callable[[Any], None], ...]()  # functions that check, or adapt, several options

    def __init__(self) -> None:
        self.explicit: set[str] = set()
        self.asked: set[str] = set()
        self.found: dict[str, Any] = {}
        self.command = ""
        self.merged = False
        self.member = False

    @classmethod
    def options(cls) -> dict[str, Kind]:
        """{name: Kind} of every option, subclasses' own included, in the order of their definition."""
        found = {name: kind for base in reversed(cls.__mro__) for name, kind in inspect.get_annotations(base).items()}
        for name, kind in found.items():
            if not isinstance(kind, Kind):
                raise UserError(
                    f"config.py: {name} needs a kind of utils/options/kinds.py: {name}: integer(0) = 1, say"
                )
        return found

    @classmethod
    def root(cls) -> type["Options"]:
        """The class that defines the options, config.py's DefaultConfig; presets are its subclasses."""
        return cls.__mro__[cls.__mro__.index(Options) - 1]

    @classmethod
    def presets(cls) -> dict[str, type["Options"]]:
        """{name: class} of all subclasses, theirs included."""
        found: dict[str, type[Options]] = {}
        for preset in cls.__subclasses__():
            found |= {preset.__name__: preset, **preset.presets()}
        return found

    @classmethod
    def preset_values(cls) -> dict[str, Any]:
        """{name: value} of the options that the class and the presets above it set, under today's names."""
        values: dict[str, Any] = {}
        for base in reversed(cls.__mro__[: cls.__mro__.index(cls.root())]):
            new = inspect.get_annotations(base)  # options of its own, with their defaults
            own = {name: value for name, value in vars(base).items() if name not in new and not name.startswith("_")}
            values |= cls.translated({name: value for name, value in own.items() if not inspect.isroutine(value)})
        return values

    @classmethod
    def load(
        cls, kwargs: dict[str, Any], given: "Options | dict[str, Any] | None" = None, command: str = ""
    ) -> "Options":
        """The options that these arguments describe: the defaults, then the preset or YAML file named by `config`, then
        the arguments themselves, the later ones winning. With options that are `given`: a copy of these, and the
        arguments on top; a dict is taken for arguments. Raises UserError, also for an argument that the command does
        not read."""
        if isinstance(given, dict):
            kwargs, given = {**given, **kwargs}, None
        if not isinstance(given, Options | None):
            raise UserError(f"{given!r} are no options: give them by name, {command or 'load'}(lr=0.01), or as a dict")
        opt = copy.deepcopy(given) if given is not None else cls._from_source(kwargs.get("config"))
        opt.command = command
        opt.update(kwargs)
        opt.check()
        return opt

    @classmethod
    def _from_source(cls, source: Any) -> "Options":
        """The options of a preset or a YAML file, or for None the defaults. Raises UserError."""
        known = cls.presets()
        if source is True:
            raise UserError("--config has no value: it takes a preset of config.py or a YAML file")
        try:
            written = (
                {"config": source}
                if source in known or str(source) == "None"
                else read_yaml(expanded(str(source)), known)
            )
            recorded = None if isinstance(written.get("run"), str) else written.pop("run", None)  # text is the option
            base = written.pop("config", None)
            if str(base) != "None" and base not in known and not recorded:
                raise UserError(f"`config: {base}` is no preset of config.py{nearest(base, known)}")
            written = (cls.younger() if recorded else {}) | written
            preset = known.get(str(base), cls)
            opt = preset()
            opt.update(preset.preset_values())
            opt.update(written)
            if recorded:  # a run's own file lists every option, whoever set it, and whether its data set reads it
                usual = {name: (getattr(cls, name, None), cls.younger().get(name, ...)) for name in opt.explicit}
                opt.explicit = {name for name in opt.explicit if getattr(opt, name) not in usual[name]}
            opt.asked = opt.explicit - (preset.preset_values().keys() - cls.translated(written).keys())
        except UserError as error:
            raise UserError(f"--config={source}: {error}") from None
        return opt

    def over(self, record: dict[str, Any]) -> "Options":
        """These options on top of what to_dict() kept of a run: what is not set now is as the run had it. Options that
        no longer exist are ignored."""
        merged = self.root().presets().get(str(record.get("config")), self.root())()
        known = merged.options().keys() - {"config", "run"}  # in a record these two are about itself
        record = (self.younger() if "config" in record else {}) | record  # without it: of somebody's weights
        merged.update({name: value for name, value in merged.translated(record).items() if name in known})
        merged.update(self.overrides())
        merged.explicit, merged.asked, merged.command = set(self.explicit), set(self.asked), self.command
        merged.merged = True
        merged.check()
        return merged

    @classmethod
    def younger(cls) -> dict[str, Any]:
        """{name: value in a record without it} of options that are younger than some runs, see the mark `before`."""
        return {name: kind.before for name, kind in cls.options().items() if kind.before is not None}

    @classmethod
    def translated(cls, kwargs: dict[str, Any], say: bool = False) -> dict[str, Any]:
        """The arguments with former names and values of options replaced by today's; with `say` a line names each."""
        result = dict(kwargs)
        for name, kind in cls.options().items():
            for old, values in kind.old.items():
                if old in result:
                    given = result.pop(old)
                    if name in result:
                        raise UserError(f"{dashed(name)} is given twice: {dashed(old)} is its former name")
                    result[name] = values.get(str(given), given)
                    if say:
                        note_once(f"{dashed(old)} is now called {dashed(name)}: {dashed(name)}={result[name]}")
        return result

    def parse(self, kwargs: dict[str, Any]) -> "Options":
        """Update the options from the dict `kwargs` and print them, as in the book. Returns self.

        Raises UserError for an unknown option or a value that the option does not take; then nothing changes.
        """
        self.update(self.load(kwargs).overrides() if kwargs.get("config") else kwargs)
        self.show()
        return self

    def update(self, kwargs: dict[str, Any]) -> None:
        """parse without the printing."""
        checked = {name: self._checked(name, value) for name, value in self.translated(kwargs, say=True).items()}
        vars(self).update(checked)
        self.explicit |= checked.keys()
        self.asked |= checked.keys()

    def assign(self, **values: Any) -> None:
        """Set options to what the program found out (a run's folder, the precision); `explicit` does not change."""
        self.found |= {name: getattr(self, name) for name, value in values.items() if value != getattr(self, name)}
        vars(self).update(values)

    def check(self) -> None:
        """Raise UserError where one option lacks another, or contradicts it. Before `over` has added those of the run
        that is resumed, an option may belong to one of these."""
        whole = self.merged or not self.values().get("resume")
        for rule in self._rules:
            rule(self)
        for name, kind in self.options().items():
            if kind.needs and getattr(self, name) and not any(getattr(self, other) for other in kind.needs):
                raise UserError(f"{dashed(name)} needs {' or '.join(map(dashed, kind.needs))}")
            for other, values in kind.only.items() if whole else ():
                default, value = getattr(self.root(), name, getattr(type(self), name)), getattr(self, name)
                chosen = getattr(self, other)
                chosen = chosen if isinstance(chosen, list) else [chosen]
                wanted = [one for one in chosen if one in values]
                if name in self.explicit and value != default and not wanted:
                    raise UserError(
                        f"{dashed(name)} belongs to {dashed(other)}={' or '.join(values)}, not to "
                        f"{','.join(map(str, chosen)) or 'none'}"
                    )
                if wanted and value in (None, []):
                    raise UserError(f"{dashed(other)}={wanted[0]} needs {dashed(name)}, {kind.takes}")

    def check_unused(self, names: Iterable[str], **parts: Any) -> None:
        """Raise UserError for an option of `names` that the chosen part does not read: it would have no effect. One of
        `younger` has its default then.

        parts: model=class or function, dataset=...; an option marked `of("model")` has to be an argument of its
        constructor, or of a base class's.
        """
        for part, made in parts.items():
            bases = getattr(made, "func", made).__mro__  # a library's model is a partial
            read = {name for base in bases for name in inspect.signature(base.__init__).parameters}
            unread = {name for name, kind in self.options().items() if kind.part == part} - read
            for name in sorted(unread & {*names}):
                raise UserError(f"{dashed(name)} means nothing to {getattr(self, part)}: leave it out")
            self.assign(**{name: getattr(self.root(), name) for name in unread & self.younger().keys()})

    def show(self, everything: bool = True) -> None:
        """Print every option with its value, or only those that the command reads and that are not the defaults."""
        print("user config:")
        left_out = 0
        for name, kind in self.options().items():
            value, read = getattr(self, name), self.command in kind.commands
            own = name in self.explicit or value != getattr(self.root(), name, value)
            if everything or (own and read):
                found = f"found for {self.found.get(name)}" if name in self.explicit else "found"
                marks = {found: {*self.found}, "given": self.asked, "preset": self.explicit, "of the run": {name}}
                mark = next(mark for mark, names in marks.items() if name in names)
                print(f"  {name}: {value}{f'  ({mark})' if own else ''}")
            else:
                left_out += read
        if left_out:
            print(f"  and {counted(left_out, 'option')} at the default value: --show-options prints all")

    def values(self) -> dict[str, Any]:
        """{name: value} of every option."""
        return {name: getattr(self, name) for name in self.options()}

    def overrides(self) -> dict[str, Any]:
        """{name: value} of the options that somebody set."""
        return {name: value for name, value in self.values().items() if name in self.explicit}

    def kwargs_for(self, function: Callable[..., Any]) -> dict[str, Any]:
        """{name: value} of the options that the arguments of `function` (or a class's constructor) name. An argument
        that is to be an object must not have an option's name: it is `module`, not model, and `optim`, not optimizer.
        """
        arguments = inspect.signature(function).parameters
        return {name: value for name, value in self.values().items() if name in arguments}

    def to_dict(self) -> dict[str, Any]:
        """values() to keep with a run; `config` is the preset whose options these are, whatever file they came from."""
        preset = None if type(self) is self.root() else type(self).__name__
        values = {name: value for name, value in self.values().items() if name != "run"}  # there: the starts of the run
        return {**values, "config": preset, "resume": None}

    def _checked(self, name: str, value: Any) -> Any:
        options = self.options()
        if name not in options:
            hint = meant(name, options)
            if name.startswith("no") and name[2:].lstrip("_") in options:
                hint = f"; did you mean --{name[2:].lstrip('_')}=False?"
            raise UserError(f"unknown option {dashed(name)}{hint or '; `python main.py help` lists them all'}")
        kind = options[name]
        if self.command and self.command not in kind.commands:
            hint = kind.hint or f"leave it out (`help {self.command}` lists what {self.command} reads)"
            readers = " and ".join(filter(None, [", ".join(kind.commands[:-1]), kind.commands[-1]]))
            raise UserError(f"{self.command} does not read {dashed(name)}, which is for {readers}: {hint}")
        try:
            return kind.check(value)
        except ValueError as error:
            problem = "has no value" if value is True or value == "" else f"cannot be {value!r}"
            takes = f"it takes {error}"
            if self.command == "train" and kind.accepts_each(value):
                takes = "it takes one value, `sweep` several or a range, a training each"
            elif "commas" in kind.takes and not ("commas" in takes or "did you mean" in takes):
                takes += "; several have commas between them"
            raise UserError(f"{dashed(name)} {problem}: {takes}") from None


def read_yaml(path: Any, presets: Iterable[str]) -> dict[str, Any]:
    """{option: value} from a YAML file, and, from a run's config.yaml, `run`, its record. Raises UserError."""
    import yaml

    if not Path(path).is_file():
        raise UserError(f"neither a file nor a preset of config.py{nearest(path, presets)}")
    try:
        safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C it takes a tenth of the time
        loader = safe(Path(path).read_text(encoding="utf-8"))
        node = loader.get_single_node()
        twice = repeated(node) if isinstance(node, yaml.MappingNode) else ""  # the last one would win
        options = loader.construct_document(node) if node else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(options, dict):
        raise UserError("holds no options: lines like `lr: 0.005` are expected")
    if twice:
        raise UserError(f"{twice} is given twice")
    return {str(name).replace("-", "_"): value for name, value in options.items()}


def repeated(node: Any) -> str:
    """A name that a mapping of YAML's, a node that is not yet constructed, or one right in it has twice, or ""."""
    for mapping in [node, *(value for _, value in node.value if value.id == "mapping")]:
        names = [str(name.value).replace("-", "_") for name, _ in mapping.value]
        for number, name in enumerate(names):
            if name in names[:number]:
                return name
    return ""
