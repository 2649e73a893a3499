"""A line of a terminal that is written over and over: how far something is."""

import os
import time
from contextlib import suppress
from typing import TextIO

_LEAST_INTERVAL_S = 0.1
_OVER = "\r\x1b[K"  # back to the beginning of the line, and empty it


def write_over(stream: TextIO, text: str, *, last: bool = False) -> None:
    """Write ``text`` over the line before it on a terminal; elsewhere only the ``last`` of such lines is written."""
    if stream.isatty():
        print(f"{_OVER}{text}", end="\n" if last else "", file=stream, flush=True)
    elif last:
        print(text, file=stream, flush=True)


class StatusLine:
    """One line on ``terminal``, overwritten by the next; without a terminal (None) nothing is ever written.

    What else is printed there needs :meth:`clear` first. A terminal that went away is no error.
    """

    def __init__(self, terminal: TextIO | None):
        self._terminal = terminal
        self._shown_s = 0.0

    def __bool__(self) -> bool:
        return self._terminal is not None

    def show(self, text: str) -> None:
        """Write ``text`` in place of what is there, at most ten times a second."""
        if time.monotonic() - self._shown_s >= _LEAST_INTERVAL_S:
            self._write(text[: self._columns() - 1])  # a line that wraps could not be overwritten
            self._shown_s = time.monotonic()

    def clear(self) -> None:
        """Leave the line empty, the cursor at its beginning."""
        if self._shown_s:
            self._write("")
            self._shown_s = 0.0

    def _columns(self) -> int:
        with suppress(OSError, ValueError, AttributeError):
            return os.get_terminal_size(self._terminal.fileno()).columns or 80
        return 80

    def _write(self, text: str) -> None:
        if self._terminal is not None:
            with suppress(OSError, ValueError):
                self._terminal.write(f"{_OVER}{text}")
                self._terminal.flush()
