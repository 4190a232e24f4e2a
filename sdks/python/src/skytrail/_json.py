"""JSON texts as the protocol wants them."""

from __future__ import annotations

import json
from typing import Any

JsonObject = dict[str, Any]

# What both sides refuse to read.
MAX_DEPTH = 64


def write(value: Any) -> str:
    """Writes compact JSON; refuses what other languages would not read.

    Raises `TypeError` or `ValueError` for what JSON cannot carry: foreign objects, NaN, halves of
    surrogate pairs, too deep nesting, circles.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise ValueError("nested too deep for JSON") from None
    text.encode()
    if is_too_deep(text):
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    return text


def is_too_deep(text: str) -> bool:
    """Whether a JSON text nests deeper than `MAX_DEPTH`."""
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return False
    depth = 0
    is_in_string = is_escaped = False
    for char in text:
        if is_in_string:
            if is_escaped:
                is_escaped = False
            elif char == "\\":
                is_escaped = True
            elif char == '"':
                is_in_string = False
        elif char == '"':
            is_in_string = True
        elif char in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif char in "}]":
            depth -= 1
    return False
