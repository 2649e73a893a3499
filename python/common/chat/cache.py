"""Encoded data kept on disk, under a key of everything it depends on. A stale entry cannot be found."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from common.chat.lengths import LengthPolicy
from common.data.examples import Example

Content = TypeVar("Content")


def cache_key(policy: LengthPolicy, examples: Sequence[Example]) -> str:
    """A key of the examples, the tokenizer with its template, the limits and this code."""
    digest = sha256()
    for example in examples:
        turns = [[message.role, message.content] for message in example.messages]
        digest.update(json.dumps([example.source, example.text, turns]).encode())
    return combine(policy, digest.hexdigest())


def combine(policy: LengthPolicy, data_key: str) -> str:
    """Like :func:`cache_key`, for data that has a key already (a file's hash, and the rules it was read by)."""
    parts = [
        code_version(),
        data_key,
        policy.encoder.identity(),
        policy.max_length_tokens,
        policy.on_overlong,
        policy.loss_on,
    ]
    return sha256(json.dumps(parts).encode()).hexdigest()


def cached(folder: Path, key: str, fill: Callable[[Path], None], read: Callable[[Path], Content]) -> Content:
    """Return what ``read`` makes of the entry ``key`` of ``folder``, after ``fill`` has written it if it is not there.

    An entry appears under its name when it is complete, by one rename, so that an interrupted run leaves none. One that
    ``read`` cannot take, raising what a damaged file raises, is made anew.
    """
    entry = Path(folder) / key
    if entry.is_dir():
        try:
            return read(entry)
        except (OSError, EOFError, ValueError, LookupError):
            shutil.rmtree(entry)
    entry.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{key[:16]}-", dir=entry.parent))
    try:
        fill(temporary)
        _sync(temporary)
        temporary.rename(entry)
    except OSError:
        if not entry.is_dir():  # not made by another process in the meantime either
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return read(entry)


@cache
def code_version() -> str:
    """A hash of the source of everything that turns a file into tokens."""
    folders = [Path(__file__).parent, Path(__file__).parents[1] / "data"]
    digest = sha256()
    for path in sorted(path for folder in folders for path in folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
