"""What a value of a settings file may be: safe YAML, types, limits. Knows nothing of recipes."""

import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

import yaml

from common.errors import ExitCode, Problem, UserError, did_you_mean


def setting(help: str, default: Any = None, *, low=None, high=None, above=None, path: bool = False, of: str = ""):
    """Return a dataclass field with its help text and its limits: ``low <= value <= high``, or ``value > above``.

    ``of`` names the kinds of method, separated by spaces, that a method's setting belongs to.
    """
    limits = {"help": help, "low": low, "high": high, "above": above, "path": path, "of": of}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=limits)
    return field(default=default, metadata=limits)


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, reads 2e-4 as a number, and leaves dates as text."""


def _construct_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, dict | list):
            what = "a key must be a word; a value that begins with { or [ is put in quotes"
            raise yaml.constructor.ConstructorError(None, None, what, key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is written twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_UniqueKeyLoader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, lambda loader, node: _construct_mapping(loader, node, deep=True)
)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from a YAML file safely. Raises UserError: 66 missing, 78 malformed, duplicate keys included."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except OSError as error:
        problem = Problem(f"cannot read {path}: {error.strerror}", next_step="check the path and its rights")
        raise UserError(problem, ExitCode.NO_INPUT) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path.name}:{mark.line + 1}" if mark else path.name
        what = getattr(error, "problem", None) or str(error)
        problem = Problem(f"{where}: {what}", "valid YAML in UTF-8", "mend the file")
        raise UserError(problem, ExitCode.CONFIG) from None
    if not isinstance(content, dict):
        raise UserError(Problem(f"{path.name} holds no settings", "a mapping of groups is needed"), ExitCode.CONFIG)
    return content


def read_value(text: str) -> Any:
    """Return the value that ``text`` is in YAML, None for no text. ValueError says in a line what is wrong with it."""
    try:
        return yaml.load(text, _UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise ValueError(getattr(error, "problem", None) or str(error)) from None


_ALIASES = {"bnb4": "nf4"}  # the name the original recipe used
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")


def convert(value: Any, kind: Any) -> Any:
    """Return ``value`` as ``kind``: str, int, float, Literal, list[str] or an optional one. ValueError says why not."""
    if isinstance(kind, types.UnionType):
        return None if value is None else convert(value, typing.get_args(kind)[0])
    if value is None:
        raise ValueError("it must have a value")
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        value = {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value  # YAML's on and off
        value = _ALIASES.get(value, value) if isinstance(value, str) else value
        if value not in allowed:
            hint = did_you_mean(str(value), allowed)
            raise ValueError("allowed: " + ", ".join(allowed) + (f" — {hint}" if hint else ""))
        return value
    if typing.get_origin(kind) is list:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, list) or not items or not all(isinstance(item, str) and item for item in items):
            raise ValueError("a list of names is needed")
        return items
    return _SCALARS[kind](value)


def _to_str(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a text is needed")
    return value


def _to_float(value: Any) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise ValueError("a number is needed")
    return value


def _to_int(value: Any) -> int:
    number = _to_float(value)
    if number != int(number):
        raise ValueError("a whole number is needed")
    return int(number)


def _to_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("allowed: true, false")
    return value


_SCALARS: dict[type, Callable[[Any], Any]] = {str: _to_str, int: _to_int, float: _to_float, bool: _to_bool}


def check_limits(value: Any, limits: Mapping[str, Any]) -> None:
    """Raise ValueError when ``value`` is outside the limits of a :func:`setting`."""
    if value is None:
        return
    low, high, above = limits["low"], limits["high"], limits["above"]
    too_low = (low is not None and value < low) or (above is not None and value <= above)
    if too_low or (high is not None and value > high):
        floor = f"at least {low:,}" if low is not None else f"above {above:,}" if above is not None else ""
        ceiling = f"at most {high:,}" if high is not None else ""
        raise ValueError("allowed: " + " and ".join(part for part in (floor, ceiling) if part))
