"""Fields of a run as words of a command line; :func:`ssn_core.runs.profiles.run_command` writes them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import yaml

from ssn_core.errors import InputError
from ssn_core.runs.config import RunConfig


def parse_fields(pairs: Sequence[str] | None) -> dict[str, Any]:
    """``name=value`` pairs; values are YAML scalars, ``image_size=640,232`` is a pair, and a field of RunConfig that is
    text stays text (a category may be called 01 or on)."""
    text_fields = {name for name, field in RunConfig.model_fields.items() if isinstance(field.default, str)}
    fields: dict[str, Any] = {}
    for pair in pairs or ():
        name, separator, text = pair.partition("=")
        if not separator or not name:
            raise InputError(f"{pair!r} is not FIELD=VALUE, for example category=screw")
        fields[name] = text if name in text_fields else _value(pair, name, text)
    return fields


def _value(pair: str, name: str, text: str) -> Any:
    try:
        value = yaml.safe_load(f"[{text}]" if name == "image_size" else text)
    except yaml.YAMLError:
        raise InputError(
            f"{pair!r}: {text!r} is no value; write a number, a word or, for image_size, 640,232"
        ) from None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # YAML takes 1e-4 for text, since it has no point
            return float(value)
    return tuple(value) if isinstance(value, list) else value
