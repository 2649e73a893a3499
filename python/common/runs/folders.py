"""Where runs live, what they may be called, and the one way to write a JSON file."""

import json
import math
import os
import re
import shlex
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from common.errors import ExitCode, Problem, UserError

ROOT = Path(__file__).resolve().parents[3]
MANIFEST_FILE = "run.json"
DONE_FILE = "DONE.json"  # written last: the sha256 of every file of the finished adapter
RESERVED_NAMES = ("data", "models", "bench", "soak", "cache", "dspy")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def runs_dir() -> Path:
    """Return the folder of all runs: ``runs/`` of the clone, or what RECETARIO_RUNS says."""
    return Path(os.environ.get("RECETARIO_RUNS") or ROOT / "runs").absolute()


def check_run_name(name: str) -> str:
    """Return ``name`` if it can name a run; it becomes a folder, so nothing else may pass (UserError 64)."""
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= 80 else name[:77] + "..."
        raise UserError(
            Problem(
                f"run name {shown!r} cannot be used",
                "a name has 1 to 64 letters, digits, dots, dashes or underscores, and starts with a letter or digit",
                "choose another with RUN=NAME",
            ),
            ExitCode.USAGE,
        )
    if name in RESERVED_NAMES:
        raise UserError(
            Problem(
                f"run name '{name}' is reserved",
                f"these folders of runs/ hold other things: {', '.join(RESERVED_NAMES)}",
                "choose another with RUN=NAME",
            ),
            ExitCode.USAGE,
        )
    return name


def run_folder(name: str) -> Path:
    """Return the real folder of the run called ``name``, following the link that ``--output`` leaves."""
    return (runs_dir() / check_run_name(name)).resolve()


def find_lost(name: str) -> Problem | None:
    """Return what is wrong with a run whose link in runs/ leads to a folder that is not there; None where it is."""
    link = runs_dir() / name
    if not link.is_symlink() or link.exists():
        return None
    what, quoted = f"{link} leads to {link.readlink()}, which is not there", shlex.quote(str(link))
    return Problem(what, next_step=f"mount the disk it is on, or forget the run: rm {quoted}")


def list_runs() -> list[Path]:
    """Return the folders (or links) in runs/ that hold a run, oldest start first."""
    found = []
    with suppress(FileNotFoundError, NotADirectoryError):
        for folder in runs_dir().iterdir():
            if folder.name in RESERVED_NAMES or not _NAME.fullmatch(folder.name):
                continue
            with suppress(OSError):
                if (folder / MANIFEST_FILE).is_file() or (folder / "status.json").is_file():
                    found.append(folder)
    return sorted(found, key=lambda folder: (_started_at(folder), folder.name))


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the second; for people, never for measuring durations."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _started_at(folder: Path) -> str:
    with suppress(UserError, OSError):
        return str(read_json(folder / "status.json").get("started_at", ""))
    return ""


def write_json(path: Path | str, value, *, durable: bool = True) -> None:
    """Replace ``path`` by ``value`` as JSON in one step: a reader sees the old file or the new one, never a part.

    With ``durable`` the file and its folder are synced, so a power cut cannot lose it; status updates, which come
    every second and may be lost, go without. Numbers that are not finite become null, because JSON has none.
    """
    text = json.dumps(_plain(value), ensure_ascii=False, indent=2, allow_nan=False, default=str) + "\n"
    replace_file(Path(path), text.encode(), durable=durable)


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace ``path`` by ``content`` in one step; see :func:`write_json`."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        sync_folder(path.parent)


def sync_files(folder: Path) -> None:
    """Make the files in ``folder`` and in folders below it survive a power cut, and their names."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path | str) -> dict:
    """Return the JSON object in ``path``; UserError 66 when there is none, 65 when it is not JSON."""
    path = Path(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(Problem(f"{path} does not exist"), ExitCode.NO_INPUT) from None
    except ValueError as error:
        raise UserError(Problem(f"{path} is not valid JSON ({error})"), ExitCode.DATA) from None
    if not isinstance(value, dict):
        raise UserError(Problem(f"{path} holds no JSON object"), ExitCode.DATA)
    return value


def _plain(value):
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str):  # a NumPy or torch scalar
        return _plain(value.item())
    return value
