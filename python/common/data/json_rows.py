"""Strict JSON: what Python's parser lets pass (NaN, duplicate keys, half characters) is an error here."""

import codecs
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from common.data.problems import RowError

_SURROGATE = re.compile("[\ud800-\udfff]")
_CHUNK_BYTES = 1 << 20
_RECODE = "if Excel wrote it, or it is Latin-1: iconv -f CP1252 -t UTF-8 FILE"


def parse_row(raw: bytes) -> dict:
    """Parse one line of JSONL. Raises RowError."""
    text = decode(raw)
    try:
        row = _decoder.decode(text)
    except _StrictError as error:
        raise RowError(str(error)) from None
    except json.JSONDecodeError as error:
        raise RowError(f"not valid JSON at column {error.pos + 1}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise RowError(f"not readable JSON: {error}") from None
    check_row(row, b"\\u" in raw)
    return row


def check_row(row: object, may_hold_surrogates: bool = True) -> None:
    """Raise RowError unless ``row`` is an object whose text can be written as UTF-8."""
    if not isinstance(row, dict):
        raise RowError(f"is {describe(row)}, not an object", 'a row looks like {"prompt": "…", "completion": "…"}')
    if may_hold_surrogates and (match := _find_surrogate(row)):
        raise RowError(f"field '{match}' holds half a character (a lone surrogate)")


def decode(raw: bytes) -> str:
    """Decode UTF-8. Raises RowError with the byte's offset and a hint."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError(
            f"not UTF-8 (byte 0x{raw[error.start]:02x} at offset {error.start} of the line)",
            "UTF-8 is read",
            _RECODE,
        ) from None


def describe(value: object) -> str:
    """Name a JSON value for an error message, with the value when it is short."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"a boolean ({str(value).lower()})"
    if isinstance(value, (int, float)):
        return f"a number ({value})"
    names = {str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


class ArrayReader:
    """Iterates over the objects of a JSON array without holding the array.

    Yields (row number from 1, object or RowError). Anything after a syntax error cannot be read: raises RowError with
    the line.
    """

    def __init__(self, file: BinaryIO, max_row_chars: int):
        self._file, self._max = file, max_row_chars
        self._decode = codecs.getincrementaldecoder("utf-8-sig")()
        self._buffer, self._at, self._lines, self._ended = "", 0, 1, False

    def __iter__(self) -> Iterator[tuple[int, object]]:
        self._expect("[")
        if self._peek() == "]":
            self._at += 1
            self._check_end()
            return
        for number in range(1, 1 << 62):
            value = self._value()
            try:
                check_row(value)
                yield number, value
            except RowError as error:
                yield number, error
            separator = self._peek()
            self._at += 1
            if separator == "]":
                self._check_end()
                return
            if separator != ",":
                found = f"'{separator}'" if separator else "the end of the file"
                cut = f"; file cut? {number:,} complete rows" if not separator else ""
                raise RowError(f"line {self._line()}: expected ',' or ']', found {found}{cut}")

    def _value(self) -> object:
        self._peek()
        while True:
            try:
                value, end = _decoder.raw_decode(self._buffer, self._at)
                if end < len(self._buffer) or self._ended:
                    self._at = end
                    return value
            except _StrictError as error:
                raise RowError(f"line {self._line()}: {error}") from None
            except (ValueError, RecursionError) as error:
                # Broken, or merely not read to its end yet: an error near the end of what was read may be either.
                position = getattr(error, "pos", self._at)
                unfinished = "Unterminated" in str(error) or len(self._buffer) - position < 64
                too_long = len(self._buffer) - self._at > self._max
                if self._ended or not unfinished or too_long:
                    self._at = min(position, len(self._buffer))
                    cut = " (file cut?)" if self._ended and unfinished else ""
                    reason = "row too long" if too_long and unfinished else getattr(error, "msg", str(error))
                    raise RowError(f"line {self._line()}: not valid JSON: {reason}{cut}") from None
            self._read()

    def _peek(self) -> str:
        while True:
            while self._at < len(self._buffer) and self._buffer[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if self._ended:
                return ""
            self._read()

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            raise RowError(f"line {self._line()}: expected '{character}'")
        self._at += 1

    def _check_end(self) -> None:
        if self._peek():
            raise RowError(f"line {self._line()}: text after the end of the array")

    def _read(self) -> None:
        chunk = self._file.read(_CHUNK_BYTES)
        self._lines += self._buffer.count("\n", 0, self._at)
        try:
            text = self._decode.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            lines = self._lines + self._buffer.count("\n", self._at) + chunk[: max(error.start, 0)].count(b"\n")
            raise RowError(f"line {lines}: not UTF-8", "UTF-8 is read", _RECODE) from None
        self._buffer, self._at, self._ended = self._buffer[self._at :] + text, 0, not chunk

    def _line(self) -> int:
        return self._lines + self._buffer.count("\n", 0, self._at)


class _StrictError(ValueError):
    """Valid for Python, not for JSON, or not safe."""


def _refuse_constant(name: str) -> None:
    raise _StrictError(f"{name} is not JSON")


def _unique_keys(pairs: list[tuple[str, object]]) -> dict:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _StrictError(f"the key '{twice}' occurs twice in one object")
    return row


_decoder = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)


def _find_surrogate(value: object, name: str = "") -> str:
    """The name of the first field that holds a lone surrogate, or ""."""
    if isinstance(value, str):
        return (name or "?") if _SURROGATE.search(value) else ""
    if isinstance(value, dict):
        pairs = ((f"{name}.{key}" if name else key, item) for key, item in value.items())
        return next((key for key in value if _SURROGATE.search(key)), "") or _first(pairs)
    if isinstance(value, list):
        return _first((f"{name}[{index}]", item) for index, item in enumerate(value))
    return ""


def _first(pairs) -> str:
    return next((found for name, item in pairs if (found := _find_surrogate(item, name))), "")
