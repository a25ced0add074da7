"""Registries of losses, towers and data sets, whose options come from signatures and docstrings.

Names, options and help are read from source text, because importing the modules takes
seconds (torch, lightly, sentence-transformers). The import happens when an entry is built.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_type_hints

from mxmclr_plugin import bounds
from mxmclr_plugin.errors import ConfigError

PLUGINS = "mxmclr_plugin.plugins"
"""Entry point group in which another package names a module or package to search."""

_HERE = Path(__file__).parent

ThingT = TypeVar("ThingT", bound=Callable[..., Any])


@dataclass(frozen=True)
class Option:
    """One option of a registered class or function.

    Attributes:
        name: Keyword.
        default: Default value.
        hint: Type, with its bounds: ``Annotated[float, Gt(0)]``.
        help: Words of the docstring.
    """

    name: str
    default: Any
    hint: Any
    help: str

    @property
    def choices(self) -> tuple[Any, ...]:
        """Values that the type lists, else empty."""
        return bounds.choices_of(self.hint)


@dataclass(frozen=True, kw_only=True)
class Info:
    """A registered class or function, described without importing it.

    Attributes:
        name: Name in configurations.
        target: Import path.
        summary: First line of the docstring.
        options: Parameters with a default, by name.
        loaded: The object, where it was registered by running the decorator outside the
            searched packages.
    """

    name: str
    target: str
    summary: str
    options: dict[str, Option]
    loaded: Callable[..., Any] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        name: str,
        target: str,
        doc: str,
        parameters: Iterable[tuple[str, Any, Any]],
        loaded: Callable[..., Any] | None = None,
        **facts: Any,
    ) -> Any:
        """Makes the record from a docstring and (name, default, type) of each parameter."""
        return cls(
            name=name,
            target=target,
            summary=summary_of(doc),
            options=_options(doc, parameters),
            loaded=loaded,
            **facts,
        )

    @property
    def defaults(self) -> dict[str, Any]:
        """Default of every option, with tuples as lists."""
        return {
            name: list(option.default) if isinstance(option.default, tuple) else option.default
            for name, option in self.options.items()
        }

    def load(self) -> Callable[..., Any]:
        """Imports the class or function."""
        if self.loaded is not None:
            return self.loaded
        module, _, attribute = self.target.rpartition(".")
        thing: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        return thing


@dataclass(frozen=True, kw_only=True)
class LossInfo(Info):
    """A registered loss.

    Attributes:
        source: Library whose code computes it.
        paper: Publication.
        positives: ``"many"`` takes multifold batches; ``"one"`` takes one pair per instance, and
            on larger folds treats further observations of the same instance as negatives or
            leaves them out.
        negatives: ``"cross-modal"`` compares a row with rows of the other modality only,
            ``"both"`` also with rows of its own modality.
        scale: Option to tune first: the temperature, or the margin where there is none.
    """

    source: str = ""
    paper: str = ""
    positives: Literal["one", "many"]
    negatives: Literal["cross-modal", "both"] = "cross-modal"
    scale: str = "temperature"

    @property
    def temperature(self) -> float | None:
        """Default temperature; None for a loss without one."""
        option = self.options.get("temperature")
        return None if option is None else option.default

    @property
    def batches(self) -> str:
        """Batches that it takes, in words."""
        return "multifold, ragged" if self.positives == "many" else "one pair per instance"


@dataclass(frozen=True, kw_only=True)
class TowerInfo(Info):
    """A registered tower: its options are those of the backbone and of ``Tower``.

    Attributes:
        kind: Kind of observations: ``"text"``, ``"image"``, ``"views"``, ``"voxel"``,
            ``"points"``, ``"features"``, ``"strokes"``, ...
    """

    kind: str

    @classmethod
    def of(cls, *args: Any, frozen: bool = False, **facts: Any) -> Any:
        info = super().of(*args, **facts)
        shared = _shared_tower_options()
        shared["frozen"] = replace(shared["frozen"], default=frozen)
        return replace(info, options={**info.options, **shared})

    @property
    def backbone(self) -> TowerInfo:
        """The same with the options of the backbone alone."""
        shared = _shared_tower_options()
        return replace(self, options={k: v for k, v in self.options.items() if k not in shared})


@dataclass(frozen=True, kw_only=True)
class DatasetInfo(Info):
    """A registered data set."""


InfoT = TypeVar("InfoT", bound=Info)


class Registry(Generic[InfoT]):
    """Entries by name, in the order of their files; a plugin's come after this package's.

    Args:
        word: What an entry is ("loss"), for messages.
        folder: Folder of this package that is searched.
        decorator: Name of the decorator that is searched for.
        info: Class of the entries.
    """

    def __init__(self, word: str, folder: str, decorator: str, info: type[InfoT]) -> None:
        self.word = word
        self._folder = folder
        self._decorator = decorator
        self._info = info
        self._entries: dict[str, InfoT] | None = None

    def register(self, thing: ThingT, name: str, facts: Mapping[str, Any]) -> ThingT:
        """Adds a class or function, unless it was found by search.

        Raises:
            ValueError: If the name is taken.
        """
        target = f"{thing.__module__}.{thing.__qualname__}"
        known = self._all.get(name)
        if known is None or known.loaded is not None:
            parameters = _parameters(thing)
            doc = inspect.getdoc(thing) or ""
            self._add(self._info.of(name, target, doc, parameters, thing, **facts))
        elif known.target != target:
            raise ValueError(f"the {self.word} {name!r} is registered already: {known.target}")
        return thing

    def resolve(self, spec: str | Mapping[str, Any]) -> tuple[InfoT, dict[str, Any]]:
        """The entry and the options of a name, or of a mapping with ``name`` and options.

        Raises:
            ValueError: If the name or an option is unknown.
        """
        options = {"name": spec} if isinstance(spec, str) else dict(spec)
        if "name" not in options:
            raise ValueError(f"a {self.word} needs a name, got only {sorted(map(str, options))}")
        entry = self[options.pop("name")]
        for key in options:
            check_known(f"the {self.word} {entry.name!r} has no option", key, entry.options)
        return entry, options

    def build(self, spec: str | Mapping[str, Any]) -> Any:
        """Calls an entry with its options.

        Raises:
            ValueError: If the name or an option is unknown.
        """
        entry, options = self.resolve(spec)
        return entry.load()(**options)

    def name_of(self, target: str) -> str | None:
        """Name of the entry with an import path."""
        return next((entry.name for entry in self if entry.target == target), None)

    def __getitem__(self, name: str) -> InfoT:
        check_known(f"unknown {self.word}", name, self._all)
        return self._all[name]

    def __contains__(self, name: object) -> bool:
        return name in self._all

    def __iter__(self) -> Iterator[InfoT]:
        return iter(self._all.values())

    @property
    def _all(self) -> dict[str, InfoT]:
        if self._entries is None:
            self._entries = {}
            for module, file in [*_modules(_HERE / self._folder), *_plugin_modules()]:
                for declared in _declarations(module, file):
                    if declared.decorator == self._decorator:
                        self._add(self._info.of(*declared.arguments, **declared.facts))
        return self._entries

    def _add(self, entry: InfoT) -> None:
        assert self._entries is not None
        known = self._entries.get(entry.name)
        if known is not None and known.loaded is None:
            raise ValueError(
                f"the {self.word} {entry.name!r} is registered by {known.target} and by "
                f"{entry.target}"
            )
        self._entries[entry.name] = entry


LOSSES = Registry("loss", "loss", "register_loss", LossInfo)
TOWERS = Registry("tower", "models", "register_tower", TowerInfo)
DATASETS = Registry("data set", "data", "register_dataset", DatasetInfo)


def register_loss(
    name: str,
    *,
    positives: Literal["one", "many"],
    negatives: Literal["cross-modal", "both"] = "cross-modal",
    scale: str = "temperature",
    source: str = "",
    paper: str = "",
) -> Callable[[ThingT], ThingT]:
    """Registers a loss class, or a function that makes a loss; see :class:`LossInfo`.

    The arguments are literals: they are read from the source text.

    Examples:
        >>> @register_loss("my_loss", positives="many")
        ... class MyLoss(nn.Module): ...
    """
    facts = {"positives": positives, "negatives": negatives, "scale": scale}
    facts |= {"source": source, "paper": paper}
    return lambda thing: LOSSES.register(thing, name, facts)


def register_tower(name: str, *, kind: str, frozen: bool = False) -> Callable[[ThingT], ThingT]:
    """Registers a backbone class, or a function that makes one.

    A parameter without a default gets the training observations of the modality. The tower has
    the options of the backbone and those of :class:`~mxmclr_plugin.models.tower.Tower`.

    Args:
        name: Name in configurations.
        kind: Kind of observations that it takes, see :class:`TowerInfo`.
        frozen: Default of the option ``frozen``.
    """
    return lambda thing: TOWERS.register(thing, name, {"kind": kind, "frozen": frozen})


def register_dataset(name: str) -> Callable[[ThingT], ThingT]:
    """Registers a function that returns :class:`~mxmclr_plugin.data.splits.DataSplits`."""
    return lambda thing: DATASETS.register(thing, name, {})


def check_known(what: str, name: object, known: Iterable[str]) -> None:
    """Checks that a name is one of those that are known.

    Args:
        what: Beginning of the message: "unknown task".
        name: The name.
        known: The names that it can be.

    Raises:
        ConfigError: If it is none of them; the message lists them.
    """
    known = list(known)
    if name not in known:
        listed = ", ".join(known) or "none"
        raise ConfigError(f"{what} {name!r}: {did_you_mean(name, known)}known are {listed}")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """ "did you mean 'x'? " for names near ``name``, else an empty string."""
    near = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}? " if near else ""


def summary_of(doc: str) -> str:
    """First sentence line of a docstring, without its full stop."""
    return _unmarked(doc.partition("\n\n")[0]).removesuffix(".")


def documented(doc: str) -> dict[str, str]:
    """Words about each parameter in the Args and Attributes sections of a docstring."""
    words: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n|\n)*)", doc + "\n", re.M):
        for name, text in re.findall(r"^    (\w+):((?:.*\n)(?:     .*\n|\n)*)", section, re.M):
            words[name] = _unmarked(text)
    return words


def _unmarked(text: str) -> str:
    """Text in one line, without the markup of reStructuredText."""
    text = re.sub(r":\w+:`(?:[^`<]*<)?~?[\w.]*?(\w+)>?`", r"\1", " ".join(text.split()))
    return text.replace("``", "")


def _options(doc: str, parameters: Iterable[tuple[str, Any, Any]]) -> dict[str, Option]:
    words = documented(doc)
    return {
        name: Option(name, value, hint, words.get(name, "")) for name, value, hint in parameters
    }


def _parameters(thing: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """Name, default and type of each parameter with a default of an imported object."""
    try:
        function = thing.__init__ if inspect.isclass(thing) else thing
        hints = get_type_hints(function, include_extras=True)
    except NameError:  # types that are imported for type checkers alone
        hints = {}
    return [
        (parameter.name, parameter.default, hints.get(parameter.name, Any))
        for parameter in inspect.signature(thing).parameters.values()
        if parameter.default is not inspect.Parameter.empty
    ]


@dataclass(frozen=True)
class _Declaration:
    """A decorated class or function in a source file."""

    decorator: str
    arguments: tuple[Any, ...]
    facts: dict[str, Any]


class _Scope(dict[str, Any]):
    """Names of a source file, evaluated from its assignments and imports when they are needed."""

    def __init__(self, tree: ast.Module) -> None:
        super().__init__()
        self.tree = tree

    def __missing__(self, name: str) -> Any:
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and name in map(ast.unparse, node.targets):
                return self.value(node.value)
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        return _imported(node.module, alias.name)
        raise KeyError(name)

    def value(self, node: ast.expr) -> Any:
        return eval(compile(ast.Expression(node), "<option>", "eval"), {}, self)

    def parameters(self, node: ast.FunctionDef | ast.ClassDef) -> list[tuple[str, Any, Any]]:
        """As :func:`_parameters`, of a definition."""
        methods = node.body if isinstance(node, ast.ClassDef) else [node]
        for function in methods:
            if isinstance(function, ast.FunctionDef) and function.name in ("__init__", node.name):
                break
        else:
            return []
        arguments = function.args
        positional = [*arguments.posonlyargs, *arguments.args]
        first = len(positional) - len(arguments.defaults)
        pairs = [
            *zip(positional[first:], arguments.defaults, strict=True),
            *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
        ]
        found = []
        for argument, default in pairs:
            if default is not None:
                value = self.value(default)
                found.append((argument.arg, value, self._hint(argument.annotation, value)))
        return found

    def _hint(self, annotation: ast.expr | None, default: Any) -> Any:
        try:
            if annotation is not None:
                return self.value(annotation)
        except (NameError, KeyError, TypeError):  # a type of a package that is not imported here
            pass
        return Any if default is None else type(default)


def _imported(module: str, name: str) -> Any:
    if module in ("typing", "collections.abc", "pathlib", "annotated_types", bounds.__name__):
        return getattr(importlib.import_module(module), name)
    file = _HERE.parent / f"{module.replace('.', '/')}.py"
    if not file.is_file():
        raise KeyError(name)
    return _Scope(_parsed(file))[name]


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def _declarations(module: str, file: Path) -> Iterator[_Declaration]:
    if "@register_" not in file.read_text(encoding="utf-8"):
        return
    scope = _Scope(_parsed(file))
    for node in scope.tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        for decorator in node.decorator_list:
            if not isinstance(decorator, ast.Call) or not isinstance(decorator.func, ast.Name):
                continue
            if decorator.func.id.startswith("register_"):
                facts = {str(k.arg): scope.value(k.value) for k in decorator.keywords}
                name = facts.pop("name", None) or scope.value(decorator.args[0])
                doc = ast.get_docstring(node) or ""
                target = f"{module}.{node.name}"
                arguments = (name, target, doc, scope.parameters(node))
                yield _Declaration(decorator.func.id, arguments, facts)


def _modules(folder: Path, package: str = "") -> list[tuple[str, Path]]:
    """Modules of a package with their files, those of inner packages last."""
    package = package or ".".join(folder.relative_to(_HERE.parent).parts)
    files = sorted(folder.rglob("*.py"), key=lambda file: (len(file.parts), file))
    return [
        (".".join([package, *file.relative_to(folder).with_suffix("").parts]), file)
        for file in files
        if file.name != "__init__.py"
    ]


@cache
def _plugin_modules() -> list[tuple[str, Path]]:
    """Modules of other packages that are named in the entry point group."""
    modules = []
    for point in entry_points(group=PLUGINS):
        spec = importlib.util.find_spec(point.module)
        if spec is None or spec.origin is None:
            continue
        file = Path(spec.origin)
        if spec.submodule_search_locations is not None:
            modules += [(point.module, file), *_modules(file.parent, point.module)]
        else:
            modules.append((point.module, file))
    return modules


def _shared_tower_options() -> dict[str, Option]:
    scope = _Scope(_parsed(_HERE / "models" / "tower.py"))
    node = next(n for n in scope.tree.body if isinstance(n, ast.ClassDef) and n.name == "Tower")
    return _options(ast.get_docstring(node) or "", scope.parameters(node))
