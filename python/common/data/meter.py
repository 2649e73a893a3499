"""How far a long reading has come: a bar on a terminal, a plain line now and then in a log."""

import sys
import time
from contextlib import contextmanager

_LINE_EVERY_S = 10.0


@contextmanager
def meter(label: str, total_bytes: int):
    """Yield a function to call with the bytes done since the last call. Writes to stderr; short jobs say nothing."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(label, total=total_bytes)
            yield lambda done: progress.advance(task, done)
        return
    state = {"done": 0, "started": time.monotonic(), "told": time.monotonic()}

    def advance(done: int) -> None:
        state["done"] += done
        now = time.monotonic()
        if now - state["told"] >= _LINE_EVERY_S:
            state["told"] = now
            share = state["done"] / max(1, total_bytes)
            left_s = (now - state["started"]) * (1 - share) / max(share, 1e-9)
            left = f", about {left_s:.0f} s left" if share else ""
            print(f"{label}: {share:.0%}{left}", file=sys.stderr, flush=True)

    yield advance
