"""Which files of a run are published, and proof that nothing private is in them.

Files are named one by one, so that a checkpoint, an optimizer state or a pickle cannot slip in. What stays is text that
could tell of the machine it was written on; it is searched, and a find stops the whole.
"""

import getpass
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from common.errors import ExitCode, Problem, UserError
from common.hashing import sha256_of
from common.methods.kinds import CONFIG_FILE, WEIGHTS_FILE
from common.runs import read_json
from common.runs.folders import DONE_FILE
from common.sharing.card import card_of_run, find_licence, name_on_hub

CARD = "README.md"
ALLOWED = (
    *(CARD, CONFIG_FILE, WEIGHTS_FILE, "training_info.json", "loss.png"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "chat_template.jinja"),
)
_SEARCHED = (".md", ".json", ".jinja")
_NOT_SEARCHED = ("tokenizer.json",)  # a vocabulary: nobody's words, and megabytes of them
_ROOTS = "home Users root mnt media tmp var opt srv scratch data work workspace Volumes private content kaggle lustre"
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_OTHER_PATHS = re.compile(r"(?<![\w/])~[\w.-]*/[\w.-]|\bfile://|(?<![A-Za-z])[A-Za-z]:\\\\?[\w.-]|\\\\\\\\[\w.-]+\\\\")

Contents = dict[str, bytes | Path]


def collect(name: str, folder: Path, *, base: str | None = None, licence: str | None = None) -> Contents:
    """Return file name → content of what is published of the finished run in ``folder``.

    ``base`` is the base's name on the hub, ``licence`` an id of the hub's list; by default they are the run's base and
    what the base's own card says. Paths become file names in the figures; the card is made anew unless somebody wrote
    another. Raises UserError: 66 for a run that is not finished, 65 for weights that are no longer what the training
    wrote.
    """
    done = _read_done(name, folder)
    contents: Contents = {file: folder / file for file in ALLOWED if (folder / file).is_file()}
    missing = [file for file in (CONFIG_FILE, WEIGHTS_FILE, "training_info.json") if file not in contents]
    if missing:
        problem = Problem(
            f"{folder} has no {', '.join(missing)}", "a finished run as it was left", f"make reproduce RUN={name}"
        )
        raise UserError(problem, ExitCode.NO_INPUT)
    for file in (CONFIG_FILE, WEIGHTS_FILE):
        if done["files"].get(file) != sha256_of(folder / file):
            what = f"{folder / file} is not what the training wrote (its sha256 differs from DONE.json's)"
            raise UserError(Problem(what, next_step=f"make reproduce RUN={name}"), ExitCode.DATA)
    config = read_json(folder / CONFIG_FILE)
    if base:
        config["base_model_name_or_path"] = base
    contents[CONFIG_FILE] = _to_bytes(config)
    contents["training_info.json"] = _to_bytes(_without_folders(read_json(folder / "training_info.json")))
    edited = (folder / CARD).is_file() and done["files"].get(CARD) != sha256_of(folder / CARD)
    if not edited:
        contents[CARD] = card_of_run(name, folder, base=base, licence=licence or find_licence(folder)).encode()
    return contents


def has_own_card(contents: Contents) -> bool:
    """True where somebody has changed the run's README.md by hand: it goes as it is."""
    return isinstance(contents[CARD], Path)


def find_private(contents: Mapping[str, bytes | Path]) -> list[Problem]:
    """Return a problem for each line of a published text that names a path, this machine, its user, or a token."""
    problems = []
    for name, content in contents.items():
        if not name.endswith(_SEARCHED) or name in _NOT_SEARCHED:
            continue
        text = content.read_bytes() if isinstance(content, Path) else content
        for number, line in enumerate(text.decode("utf-8", "replace").split("\n"), 1):
            problems += [Problem(f"{name}:{number}: {what}", next_step=_REMEDY.get(name, "")) for what in _look(line)]
    return problems


def local_base(contents: Contents) -> str | None:
    """Return the base's name where it is a folder of this machine, which nobody else can load."""
    config = contents[CONFIG_FILE]
    base = json.loads(config.read_bytes() if isinstance(config, Path) else config)["base_model_name_or_path"]
    return None if name_on_hub(base) else base


def size_of(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


_REMEDY = {
    CONFIG_FILE: "name the base as the hub does: BASE=org/name",
    CARD: "take it out of the README.md in the run's folder, or delete that file: it is made anew",
}


def _look(line: str) -> Iterator[str]:
    for match in _absolute_paths().finditer(line):
        yield f"a path of this machine ({match[0].strip()})"
    for match in _OTHER_PATHS.finditer(line):
        yield f"a path of this machine ({line[match.start() : match.start() + 30].strip()})"
    for what, word in _own_names():
        if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", line, re.IGNORECASE):
            yield f"the {what} of this machine ({word})"
    if _TOKEN.search(line):
        yield "a token of the hub"


def _absolute_paths() -> re.Pattern:
    """Absolute paths: those whose first folder is one of this machine's, or usual elsewhere."""
    roots = set(_ROOTS.split())
    with suppress(OSError):
        roots |= {entry.name for entry in os.scandir("/") if entry.is_dir()}
    names = "|".join(sorted(map(re.escape, roots)))
    return re.compile(rf"(?<![\w.:/~])/(?:{names})/[^\s\"'`)|,]+")


def _own_names() -> list[tuple[str, str]]:
    """(what, word) of this machine's name and user, where they are no everyday words."""
    found = [("host name", socket.gethostname())]
    with suppress(OSError, KeyError, ImportError):
        found.append(("user name", getpass.getuser()))
    return [(what, word) for what, word in found if len(word) > 4 and word not in ("localhost", "ubuntu", "admin")]


def _read_done(name: str, folder: Path) -> dict[str, Any]:
    try:
        return read_json(folder / DONE_FILE)
    except UserError:
        what = f"run '{name}' is not finished: {folder} has no DONE.json"
        raise UserError(Problem(what, "a finished run", f"make resume RUN={name}"), ExitCode.NO_INPUT) from None


def _without_folders(value: Any) -> Any:
    """Return ``value`` with every absolute path in it cut down to its last part."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    if isinstance(value, str):
        for kind in (PurePath, PureWindowsPath):
            if kind(value).is_absolute() or value.startswith("~"):
                return kind(value).name
    return value


def _to_bytes(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
