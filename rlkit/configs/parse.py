"""Layers of settings over a dataclass: strict, with the place where each value comes from."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rlkit.core.errors import ConfigError, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """A value and where it was written: `file.yaml:3`, `--a.b`."""

    value: Any
    origin: str


# A layer maps dotted keys to settings. Later layers win.
Layer = Mapping[str, Setting]


def read_layer(text: str, source: str) -> dict[str, Setting]:
    """Dotted keys of a YAML text; `source` names it in messages. Raises ConfigError with the line of a mistake."""
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(
            f"{source}{line} is not YAML", why=str(getattr(error, "problem", error)), fix="mend that line"
        ) from error
    return {} if node is None else _flatten_node(node, "", source)


def _flatten_node(node: yaml.Node, prefix: str, source: str) -> dict[str, Setting]:
    origin = f"{source}:{node.start_mark.line + 1}"
    if not isinstance(node, yaml.MappingNode):
        if not prefix:
            raise ConfigError(
                f"{origin} holds no settings", why="a settings file is a mapping", fix="write `key: value`"
            )
        loader = yaml.SafeLoader("")
        return {prefix: Setting(loader.construct_object(node, deep=True), origin)}
    found: dict[str, Setting] = {}
    for key, value in node.value:
        path = f"{prefix}.{key.value}" if prefix else str(key.value)
        if path in found:
            raise ConfigError(
                f"{source}:{key.start_mark.line + 1}: {path} is set twice", why="one would win", fix="keep one"
            )
        found |= _flatten_node(value, path, source)
    return found


def flag_layer(flags: Mapping[str, Any]) -> dict[str, Setting]:
    """Settings of the command line or of a caller; texts are YAML values."""
    found = {}
    for key, value in flags.items():
        try:
            found[key] = Setting(yaml.safe_load(value) if isinstance(value, str) else value, f"--{key}")
        except yaml.YAMLError as error:
            raise ConfigError(
                f"--{key}: {value!r} is not a YAML value", why=str(error).splitlines()[0], fix="quote it"
            ) from error
    return found


def build(schema: type[T], layers: list[Layer], parts: Mapping[str, type[Any]] | None = None) -> T:
    """A `schema` filled from its defaults and `layers`; `parts` gives the dataclass of fields that are typed Any.

    Raises ConfigError for an unknown key (with the nearest and all known ones) and a value that does not fit.
    """
    merged: dict[str, Setting] = {}
    for layer in layers:
        merged |= layer
    return _build(schema, merged, "", dict(parts or {}))


def _build(schema: type[T], settings: Mapping[str, Setting], prefix: str, parts: dict[str, type[Any]]) -> T:
    hints = typing.get_type_hints(schema)
    fields = {field.name: field for field in dataclasses.fields(schema)}  # type: ignore[arg-type]
    nested = {
        name: parts[name] if hints[name] is Any else hints[name]
        for name in fields
        if hints[name] is Any or dataclasses.is_dataclass(hints[name])
    }
    for key, setting in settings.items():
        head, _, rest = key.partition(".")
        if head not in fields or bool(rest) != (head in nested):
            _unknown(prefix, key, setting, fields, nested)
    values: dict[str, Any] = {}
    for name in fields:
        if name in nested:
            own = {key.partition(".")[2]: s for key, s in settings.items() if key.startswith(f"{name}.")}
            values[name] = _build(nested[name], own, f"{prefix}{name}.", parts)
        elif name in settings:
            values[name] = _convert(settings[name], hints[name], prefix + name)
    return schema(**values)


def _unknown(
    prefix: str, key: str, setting: Setting, fields: Mapping[str, Any], nested: Mapping[str, type[Any]]
) -> typing.NoReturn:
    if key in nested:
        raise ConfigError(
            f"{setting.origin}: {prefix}{key} is a group of settings",
            why=f"it holds {', '.join(f.name for f in dataclasses.fields(nested[key]))}",
            fix=f"set one of them, --{prefix}{key}.NAME VALUE",
        )
    known = sorted(fields)
    raise ConfigError(
        f"{setting.origin}: unknown key {prefix}{key}",
        why=f"known here: {', '.join(prefix + name for name in known)}.{nearest(key.partition('.')[0], known)}",
        fix="`rlkit config show AGENT --env ID` prints every key with its value",
        see="docs/configuration.md",
    )


def _convert(setting: Setting, hint: Any, key: str) -> Any:
    value, origin = setting.value, typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (inner,) = [argument for argument in arguments if argument is not type(None)]
        return _convert(setting, inner, key)
    if origin is typing.Literal:
        if value in arguments:
            return value
        near = nearest(str(value), [str(a) for a in arguments])
        _misfit(setting, key, f"one of {', '.join(map(str, arguments))}", near)
    if origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_convert(Setting(item, setting.origin), arguments[0], key) for item in value)
        _misfit(setting, key, "a list, '[256, 256]'")
    if hint is Fraction:
        return _fraction(setting, key)
    if hint is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 3e-4 as a text
        except (TypeError, ValueError):
            pass
    if hint is int and not isinstance(value, bool) and not isinstance(value, str):
        if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
            return int(value)
    elif hint is bool and isinstance(value, bool):
        return value
    elif hint is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return _misfit(setting, key, names[hint])


def _fraction(setting: Setting, key: str) -> Fraction:
    value = setting.value
    try:
        found = Fraction(str(value)) if not isinstance(value, bool) else None
    except (ValueError, ZeroDivisionError):
        found = None
    if found is None or found < 0:
        _misfit(setting, key, "a fraction of 0 or more, '1/4' or 0.25")
    return found


def _misfit(setting: Setting, key: str, wanted: str, near: str = "") -> typing.NoReturn:
    raise ConfigError(
        f"{setting.origin}: {key} is {setting.value!r}",
        why=f"it must be {wanted}.{near}",
        fix=f"--{key} VALUE",
        see="docs/configuration.md",
    )


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys and plain values of a config."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= flatten(value, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = _plain(value)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Fraction):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def dump(config: Any) -> str:
    """YAML of a config; `build` reads it back to an equal one."""
    tree: dict[str, Any] = {}
    for key, value in flatten(config).items():
        *groups, name = key.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[name] = value
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """One setting a line: mappings in block style, lists in one line."""


_Dumper.add_representer(list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, True))


def difference(old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    """(key, old value, new value) of every setting that differs; a missing one is None."""
    left, right = flatten(old), flatten(new)
    keys = [*left, *(key for key in right if key not in left)]
    return [(key, left.get(key), right.get(key)) for key in keys if left.get(key) != right.get(key)]


def read_file(path: Path) -> dict[str, Setting]:
    """The layer in a YAML file. Raises ConfigError if it cannot be read."""
    try:
        return read_layer(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not a text in UTF-8" if isinstance(error, UnicodeDecodeError) else str(error.strerror)
        raise ConfigError(f"{path} cannot be read", why=why, fix="check the path after --config") from error
