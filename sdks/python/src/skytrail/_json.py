"""JSON texts as the protocol requires them."""

from __future__ import annotations

import json
import re
from typing import Any

JsonObject = dict[str, Any]

# Both sides reject deeper nesting.
MAX_DEPTH = 64

# An integer with this many digits can exceed 64 bits, unless the digits are inside a string.
_MANY_DIGITS = re.compile("[0-9]{19}")
_HALF_OF_PAIR = re.compile("[\ud800-\udfff]")


def circular() -> ValueError:
    return ValueError("a value that refers to itself cannot be sent")


def too_deep() -> ValueError:
    return ValueError(f"nested deeper than {MAX_DEPTH}")


def write(value: Any, *, is_mended: bool = False) -> str:
    """Writes compact JSON; rejects what other languages would not read.

    Raises `TypeError` or `ValueError` for what JSON cannot represent: foreign objects, NaN,
    integers beyond 64 bits that readers would round, lone surrogates, nesting that is too deep,
    cycles. With `is_mended`, lone surrogates become U+FFFD.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except RecursionError:
        raise too_deep() from None
    except ValueError as error:
        if str(error) == "Circular reference detected":
            raise circular() from None
        raise
    if is_mended:
        text = _HALF_OF_PAIR.sub("\ufffd", text)
    text.encode()
    if is_too_deep(text):
        raise too_deep()
    if _MANY_DIGITS.search(text):
        json.loads(text, parse_int=_check_integer)
    return text


def _check_integer(digits: str) -> None:
    """Raises `ValueError` for an integer that neither 64 bits nor a double can hold."""
    number = int(digits)
    if -(1 << 63) <= number < 1 << 64:
        return
    try:
        is_exact = int(float(number)) == number
    except OverflowError:
        is_exact = False
    if not is_exact:
        message = f"an integer of {len(digits)} digits would be rounded: send a float or a string"
        raise ValueError(message)


def is_too_deep(text: str) -> bool:
    """Returns whether a JSON text is nested deeper than `MAX_DEPTH`."""
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
