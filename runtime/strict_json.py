"""Strict JSON: every unknown, missing or ill-typed key of a file is said at once.

A frozen dataclass is its own schema. Its fields' types say what is allowed: `int`, `float`, `str`,
`bool`, `X | Y`, `X | None`, `tuple[X, ...]`, `tuple[X, X]`, `Mapping[str, X]`, `Mapping[int, X]`
(JSON keys are decimal strings), or another such dataclass. A class may add rules of its own by a
method `problems(where) -> Iterator[str]`. A field with the metadata `optional` may be left out of
the file, and is where it is None: a key that older files do not have.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

__all__ = ["decode", "encode", "json_text", "parse_json"]

INVALID = object()  # what `decode` answers for a value whose problem it has noted
KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    type(None): "null",
}


def json_text(value: object) -> str:
    """Spell a value as diffable JSON: sorted keys, indent 1, ASCII, one newline at the end."""
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def parse_json(text: str | bytes) -> object:
    """Parse JSON that says each key once and holds only numbers JSON has.

    Raises:
        ValueError: Not UTF-8 JSON, a repeated key, NaN or Infinity, or nesting too deep.
    """
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        seen: dict[str, object] = {}
        for key, value in pairs:
            if key in seen:
                repeated.append(key)
            seen[key] = value
        return seen

    def refuse(constant: str) -> object:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        decoded = text if isinstance(text, str) else text.decode("utf-8")
        value = json.loads(decoded, object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if repeated:
        raise ValueError(f"repeated keys: {', '.join(sorted(set(repeated)))}")
    return value


def encode(value: object) -> Any:
    """Turn a dataclass (or a part of one) into plain JSON values; the inverse of `decode`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = {field: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {
            _key(field): encode(item)
            for field, item in given.items()
            if item is not None or not field.metadata.get("optional")
        }
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [encode(item) for item in value]
    return value


def decode(kind: Any, value: object, where: str, problems: list[str]) -> Any:
    """Turn plain JSON values into `kind`, noting in `problems` all that does not fit.

    Args:
        kind: A type of the family that the module's docstring lists.
        value: What `parse_json` gave.
        where: The place of the value, `stages[0].graph`; empty for the whole file.
        problems: Grows by one sentence per problem.

    Returns:
        The typed value; meaningless once `problems` has grown.
    """
    if dataclasses.is_dataclass(kind):
        return _decode_object(kind, value, where, problems)
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(kind, value, where, problems)
    if origin is tuple:
        return _decode_list(kind, value, where, problems)
    if origin is Mapping:
        return _decode_mapping(kind, value, where, problems)
    if kind is float and type(value) is int:  # JSON spells 2.0 so as well
        return float(value)
    if type(value) is not kind:  # not isinstance: True is no integer here
        return _mismatch(kind, value, where, problems)
    return value


def _decode_object(kind: Any, value: object, where: str, problems: list[str]) -> Any:
    """Decode one dataclass: unknown keys, missing keys, each field, then the class's own rules."""
    if not isinstance(value, dict):
        return _mismatch(kind, value, where, problems)
    before = len(problems)
    hints = _hints(kind)
    keys = {_key(field): field.name for field in dataclasses.fields(kind)}
    optional = {
        _key(field) for field in dataclasses.fields(kind) if field.metadata.get("optional")
    }
    unknown = sorted(set(value) - set(keys))
    missing = sorted(set(keys) - set(value) - optional)
    if unknown:
        problems.append(f"{where or 'top level'} | unknown keys {', '.join(unknown)}")
    if missing:
        problems.append(f"{where or 'top level'} | missing keys {', '.join(missing)}")
    made = {
        name: decode(hints[name], value[key], f"{where}.{key}".lstrip("."), problems)
        for key, name in keys.items()
        if key in value
    }
    if len(problems) > before:
        return INVALID
    item = kind(**made)
    rules = getattr(item, "problems", None)
    if rules is not None:
        problems.extend(rules(where))
    return item


def _decode_union(kind: Any, value: object, where: str, problems: list[str]) -> Any:
    """Decode `X | Y`; the problems inside a dataclass are told when it is the arm meant."""
    for arm in get_args(kind):
        trial: list[str] = []
        made = decode(arm, value, where, trial)
        if not trial:
            return made
        if dataclasses.is_dataclass(arm) and isinstance(value, dict):
            problems.extend(trial)
            return INVALID
    return _mismatch(kind, value, where, problems)


def _decode_list(kind: Any, value: object, where: str, problems: list[str]) -> Any:
    """Decode `tuple[X, ...]`, or a tuple of fixed length."""
    arms = get_args(kind)
    is_open = arms[-1] is Ellipsis
    if not isinstance(value, list) or not (is_open or len(value) == len(arms)):
        return _mismatch(kind, value, where, problems)
    kinds = [arms[0]] * len(value) if is_open else list(arms)
    return tuple(
        decode(arm, item, f"{where}[{index}]", problems)
        for index, (arm, item) in enumerate(zip(kinds, value, strict=True))
    )


def _decode_mapping(kind: Any, value: object, where: str, problems: list[str]) -> Any:
    """Decode `Mapping[str, X]` or `Mapping[int, X]`."""
    if not isinstance(value, dict):
        return _mismatch(kind, value, where, problems)
    key_kind, item_kind = get_args(kind)
    made = {}
    for key, item in value.items():
        # Only the one canonical spelling of a number, so that no two keys mean the same.
        if key_kind is int and not (key.isdecimal() and key.isascii() and str(int(key)) == key):
            problems.append(f"{where} | got key {key!r} | expected a decimal number")
            continue
        made[key_kind(key)] = decode(item_kind, item, f"{where}[{key}]", problems)
    return made


def _mismatch(kind: Any, value: object, where: str, problems: list[str]) -> object:
    """Note that a value is of the wrong type."""
    problems.append(f"{where or 'top level'} | got {_shown(value)} | expected {_spelled(kind)}")
    return INVALID


def _shown(value: object) -> str:
    """Spell a wrong value so that it fits in a sentence."""
    if isinstance(value, (dict, list)):  # may be deep, and is never the point
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _spelled(kind: Any) -> str:
    """Spell a type in words."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_spelled(arm) for arm in get_args(kind))
    if origin is tuple:
        arms = get_args(kind)
        length = "a list" if arms[-1] is Ellipsis else f"a list of {len(arms)}"
        return f"{length}, each {_spelled(arms[0])}"
    if origin is Mapping or dataclasses.is_dataclass(kind):
        return "an object"
    return KINDS[kind]


def _key(field: dataclasses.Field[Any]) -> str:
    """The field's name in JSON, where it differs from Python's."""
    return str(field.metadata.get("json", field.name))


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The field types of a dataclass, resolved once."""
    return get_type_hints(kind)
