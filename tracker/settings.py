"""Settings as frozen dataclasses: allowed values stand in the types; TOML files and `--set NAME=VALUE` change them.

    @dataclass(frozen=True, slots=True)
    class MotionConfig(Settings):
        camera: bool = True
        score_noise: Annotated[float, Range("[0, 1e4]")] = 3.0

        def check_together(self) -> None:
            require(...)  # rules between several settings

Every value is checked when an object is made, however it is made. All errors are ConfigError and say the name, the
value and what is allowed; those of a file begin with its name. This module knows nothing of the tracker.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import io
import json
import numbers
import re
import tokenize
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from tracker.errors import ConfigError

T = TypeVar("T")
LONGEST = 1_000_000  # characters of a settings file
LARGEST = 10**15  # no whole number of a setting counts further
WORDS = {**dict.fromkeys(("true", "yes", "on", "1"), True), **dict.fromkeys(("false", "no", "off", "0"), False)}


@dataclass(frozen=True, slots=True)
class Range:
    """Allowed numbers as in mathematics: "[0, 1)" has 0 but not 1; "(0, inf)" is finite, "(0, inf]" may be infinite."""

    text: str

    def __contains__(self, value: float) -> bool:
        low, high = (float(end) for end in self.text[1:-1].split(","))
        above = low <= value if self.text[0] == "[" else low < value
        return above and (value <= high if self.text[-1] == "]" else value < high)

    def __str__(self) -> str:
        low, _, high = self.text[1:-1].partition(", ")
        if low == "-inf":
            return "finite"
        return f"in {self.text}" if high != "inf" else f"{'>=' if self.text[0] == '[' else '>'} {low}"


class OneOf(tuple[Any, ...]):
    """The allowed values, such as OneOf(("cosine", "step"))."""

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self))}"


FINITE = Range("(-inf, inf)")
Share = Annotated[float, Range("[0, 1]")]  # a share, a score, a probability
BelowOne = Annotated[float, Range("[0, 1)")]
NotNegative = Annotated[float, Range("[0, inf)")]
Positive = Annotated[float, Range("(0, inf)")]
Whole = Annotated[int, Range("[0, inf)")]
Count = Annotated[int, Range("[1, inf)")]


class Settings:
    """Base of all classes of settings."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for name, hint in hints_of(type(self)).items():
            object.__setattr__(self, name, convert(getattr(self, name), hint, f"{type(self).__name__}.{name}"))
        self.check_together()

    def check_together(self) -> None:
        """Raises ConfigError where settings do not go together."""


def require(holds: bool, message: str) -> None:
    if not holds:
        raise ConfigError(message)


def from_table(cls: type[T], table: Any, name: str = "") -> T:
    """An object of a settings class from a table of plain values; what the table leaves out has its default.

    name: of the table, before its keys in messages.
    """
    require(isinstance(table, Mapping), f"{name} must be a table, got {shown(table)}")
    prefix, hints = f"{name}." if name else "", hints_of(cls)
    _require_known(cls, ([key] for key in table), prefix)
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # T is a dataclass
        optional = dataclasses.MISSING is not field.default or dataclasses.MISSING is not field.default_factory
        require(optional or field.name in table, f"{prefix}{field.name} is missing")
    return cls(**{key: convert(value, hints[key], prefix + key) for key, value in table.items()})


def override(settings: T, changes: Mapping[str, Any], prefix: str = "") -> T:
    """A copy with {"section.name": value} changed. Text is read as `--set` reads it."""
    hints = hints_of(type(settings))
    _require_known(type(settings), (dotted.split(".") for dotted in changes), prefix)
    new: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for dotted, value in changes.items():
        name, _, rest = dotted.partition(".")
        if rest:
            inner.setdefault(name, {})[rest] = value
        else:
            new[name] = convert(read_value(value, hints[name]), hints[name], prefix + name)
    for name, values in inner.items():
        part = new.get(name, getattr(settings, name))
        if isinstance(part, Mapping):  # a table whose names are not known here
            new[name] = {**part, **{key: read_value(value, Any) for key, value in values.items()}}
        else:
            new[name] = override(part, values, f"{prefix}{name}.")
    return dataclasses.replace(settings, **new)  # type: ignore[type-var]  # T is a dataclass


def pairs(texts: Sequence[str], option: str = "--set", form: str = "NAME=VALUE") -> dict[str, str]:
    """Name -> text of each NAME=VALUE."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        require(bool(name.strip() and equals), f"{option} takes {form}, got {shown(text)}")
        found[name.strip()] = value.strip()
    return found


def to_dict(settings: Any) -> dict[str, Any]:
    """Plain values alone, as JSON and TOML know them; None is left out."""
    return {f.name: _plain(getattr(settings, f.name)) for f in dataclasses.fields(settings)
            if getattr(settings, f.name) is not None}  # fmt: skip


def to_toml(settings: Any) -> str:
    """TOML text that `load` reads back to an equal object."""
    return "\n".join(_lines(to_dict(settings), "")).lstrip("\n") + "\n"


def load(cls: type[T], path: str | Path) -> T:
    """An object of a settings class from a TOML file that holds all or a part of it."""
    table = read_table(path)
    with naming(path):
        return from_table(cls, table)


def read_table(path: str | Path) -> dict[str, Any]:
    """What is in a TOML file."""
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            return tomllib.loads(file.read(LONGEST))  # a device has no end
    except OSError as error:
        raise ConfigError(f"cannot read settings from {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no text, no TOML, a number of 5000 digits, 1000 brackets
        raise ConfigError(f"cannot read settings from {path}: {error}; is it a settings file?") from error


@contextmanager
def naming(where: object) -> Iterator[None]:
    """Puts a file's name before the text of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def convert(value: Any, hint: Any, name: str) -> Any:
    """The value in the type of a setting. Raises ConfigError with the setting's name."""
    inner = get_args(hint)
    if NoneType in inner:
        return None if value is None else convert(value, inner[0], name)
    kind, *rules = inner if get_origin(hint) is Annotated else (hint, *((FINITE,) if hint is float else ()))
    value = _as_type(value, kind, name)
    for rule in rules:
        require(value in rule, f"{name} must be {rule}, got {shown(value)}")
    return value


def _as_type(value: Any, hint: Any, name: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_table(hint, value, name)
    if origin is tuple:
        require(isinstance(value, list | tuple), f"{name} must be a list, got {shown(value)}")
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        require(len(kinds) == len(value), f"{name} must be a list of {len(kinds)}, got {shown(value)}")
        return tuple(convert(item, kind, name) for item, kind in zip(value, kinds, strict=True))
    if origin is Mapping or (hint is Any and isinstance(value, Mapping)):
        require(isinstance(value, Mapping), f"{name} must be a table, got {shown(value)}")
        return {key: convert(item, inner[1] if inner else Any, f"{name}.{key}") for key, item in value.items()}
    if hint is Any:
        if isinstance(value, list | tuple):
            return [convert(item, Any, name) for item in value]
        hint = next((kind for kind in KINDS if isinstance(value, kind)), str)
    abstract, wanted = KINDS[hint]
    whole = hint is int and isinstance(value, float) and value.is_integer()
    right = isinstance(value, abstract) and isinstance(value, bool) == (hint is bool)
    require(right or whole, f"{name} must be {wanted}, got {shown(value)}")
    require(hint is not int or abs(value) < LARGEST, f"{name} must be a number below {LARGEST:g}, got {shown(value)}")
    try:
        return hint(value)
    except OverflowError:  # float(10**400)
        raise ConfigError(f"{name} must be a number below 1e308, got {shown(value)}") from None


KINDS: dict[Any, tuple[Any, str]] = {
    bool: (bool, "true or false"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: (str, "a text"),
}


def read_value(text: Any, hint: Any) -> Any:
    """What NAME=TEXT means for a setting of that type: a TOML value, a bare word, yes and no, or none."""
    while get_origin(hint) is Annotated or NoneType in get_args(hint):
        if NoneType in get_args(hint) and isinstance(text, str) and text.strip().lower() == "none":
            return None
        hint = get_args(hint)[0]
    if hint is bool:
        return WORDS.get(str(text).strip().lower(), text)
    if not isinstance(text, str):
        return text
    try:
        table = tomllib.loads(f"value = {text}")
        value = table["value"] if len(table) == 1 and "\n" not in text else text.strip()
    except tomllib.TOMLDecodeError:
        value = text.strip()
    except (ValueError, RecursionError):  # a number of 5000 digits, 1000 brackets
        return text
    if hint is float and isinstance(value, str) and re.fullmatch(r"[-+]?(\d+\.?|\.\d)\d*(e[-+]?\d+)?", value.lower()):
        return float(value)  # such as .5 and 1., which are no TOML
    if hint is int and isinstance(value, str) and re.fullmatch(r"[-+]?\d{1,18}", value):
        return int(value)  # such as 007
    return value if hint is not str or isinstance(value, str) else text.strip()


def shown(value: object) -> str:
    """A value in a message: not longer than a line."""
    try:
        text = repr(value)
    except ValueError:  # a hexadecimal number may be longer than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= 100 else f"{text[:97]}..."


def hints_of(cls: Any) -> dict[str, Any]:
    """The type of every setting, with its allowed values."""
    return _hints_of(cls)


@functools.cache
def _hints_of(cls: Any) -> dict[str, Any]:
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _require_known(cls: Any, paths: Iterable[Sequence[str]], prefix: str) -> None:
    """Raise ConfigError for the first path, names of sections and a setting, that cls lacks; say which may be meant."""
    for path in paths:
        inner, at = cls, prefix
        for name in path:
            if get_origin(inner) is Mapping:  # its names are not known here
                break
            known = hints_of(inner) if dataclasses.is_dataclass(inner) else {}
            if name not in known:
                dotted = ".".join(path)
                meant = " or ".join(_alike(dotted, list(_all_names(cls)), prefix))
                hint = f" (did you mean {meant}?)" if meant else ""
                allowed = f"; there are: {', '.join(at + other for other in known)}" if known else ""
                raise ConfigError(f"unknown setting {prefix}{dotted}{hint}{allowed}")
            inner, at = known[name], f"{at}{name}."


def _all_names(cls: Any) -> Iterator[str]:
    """The dotted names of all settings and sections."""
    for name, hint in hints_of(cls).items():
        yield name
        if dataclasses.is_dataclass(hint):
            yield from (f"{name}.{inner}" for inner in _all_names(hint))


def _alike(dotted: str, names: Sequence[str], prefix: str) -> list[str]:
    """The names, after the prefix, whose last part is that of `dotted` or resembles it most; the most alike first."""
    last = {name: name.rpartition(".")[2] for name in names}
    nearest = difflib.get_close_matches(dotted.lower().rpartition(".")[2], last.values(), n=1, cutoff=0.7)
    found = [name for name in names if last[name] in nearest]
    return [prefix + name for name in difflib.get_close_matches(dotted, found, n=3, cutoff=0.0)]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _lines(table: Mapping[str, Any], prefix: str) -> list[str]:
    keys = {key: key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key) for key in table}
    lines = [f"{keys[key]} = {_text(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += ["", f"[{prefix}{keys[key]}]", *_lines(value, f"{prefix}{keys[key]}.")]
    return lines


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, float):
        return repr(value)  # JSON has no inf
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def allowed(hint: Any) -> str:
    """The values of a setting in words: "a number > 0", "one of cosine, step"."""
    inner = get_args(hint)
    if NoneType in inner:
        return f"{allowed(inner[0])}, or none"
    kind, *rules = inner if get_origin(hint) is Annotated else (hint,)
    choices = [str(rule) for rule in rules if isinstance(rule, OneOf)]
    if choices:
        return choices[0]
    if get_origin(kind) is Mapping:
        return "a table"
    if get_origin(kind) is tuple:
        return f"a list, each {allowed(get_args(kind)[0])}"
    return " ".join([KINDS[kind][1], *map(str, rules)])


def field_comments(cls: type) -> dict[str, str]:
    """Field -> what the comment above it and the one at the end of its lines say: the description of a setting."""
    classes, comments = _parsed(cls.__module__)
    found = {}
    for statement in classes[cls.__name__].body if cls.__name__ in classes else ():
        target = _assigned(statement)
        words = _comment_of(statement, comments)
        if target and words:
            found[target] = words
    return found


@functools.cache
def _parsed(module: str) -> tuple[dict[str, ast.ClassDef], dict[int, tuple[int, str]]]:
    """The classes of a module by name, and its comments: line -> (column, text)."""
    source = inspect.getsource(import_module(module))
    comments = {
        token.start[0]: (token.start[1], token.string.removeprefix("#").strip())
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and not re.match(r"# (fmt|noqa|type):", token.string)
    }
    return {node.name: node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}, comments


def _assigned(statement: ast.stmt) -> str | None:
    target: ast.expr | None = None
    if isinstance(statement, ast.AnnAssign):
        target = statement.target
    elif isinstance(statement, ast.Assign):
        target = statement.targets[0]
    return target.id if isinstance(target, ast.Name) else None


def _comment_of(statement: ast.stmt, comments: dict[int, tuple[int, str]]) -> str:
    """comments: line -> (column, text)."""
    beside = [comments[n][1] for n in range(statement.lineno, (statement.end_lineno or 0) + 1) if n in comments]
    above: list[str] = []
    line = statement.lineno - 1
    while line in comments and comments[line][0] == statement.col_offset:
        above.insert(0, comments[line][1])
        line -= 1
    return " ".join([*above, *beside])
