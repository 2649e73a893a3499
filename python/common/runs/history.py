"""What a run has written down so far, read back for people: its losses, its metrics, its last warning."""

import json
import re
from contextlib import suppress
from pathlib import Path

from common.runs.log import LOG_FILE, clean_line
from common.runs.run import METRICS_FILE

_WARNING = re.compile(r"\bwarning\b", re.IGNORECASE)
_TAIL_BYTES = 1 << 18  # of a log or of metrics: days of both, read in a millisecond


def read_metrics(folder: Path, tail_bytes: int | None = None) -> list[dict]:
    """Return the records of metrics.jsonl, each step once: a resumed run repeats those after its last checkpoint.

    With ``tail_bytes`` only the end of the file is read. A line that was cut short by a kill is left out.
    """
    records: dict[tuple[int, bool], dict] = {}
    for line in _tail(folder / METRICS_FILE, tail_bytes).splitlines():
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records[record["step"], "eval_loss" in record] = record
    return [records[key] for key in sorted(records)]


def read_losses(folder: Path, points: int = 40) -> list[float]:
    """Return the training losses of a run as at most ``points`` means of neighbours, the oldest first."""
    losses = [record["loss"] for record in read_metrics(folder, _TAIL_BYTES) if _is_number(record.get("loss"))]
    groups = min(points, len(losses))
    cuts = [len(losses) * k // groups for k in range(groups + 1)] if groups else []
    return [round(sum(losses[a:b]) / (b - a), 4) for a, b in zip(cuts, cuts[1:], strict=False)]


def read_warnings(folder: Path, most: int = 20) -> list[str]:
    """Return the last lines of train.log that warn of something, each once, the oldest first."""
    lines = (clean_line(line).strip() for line in _tail(folder / LOG_FILE, _TAIL_BYTES).splitlines())
    return list(dict.fromkeys(line for line in lines if _WARNING.search(line)))[-most:]


def last_warning(folder: Path) -> str | None:
    """Return the last line of train.log that warns of something, None when none does."""
    return next(reversed(read_warnings(folder)), None)


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _tail(path: Path, size: int | None) -> str:
    """Return the text of a file, or of its last ``size`` bytes from the first whole line on; "" without a file."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            cut = size is not None and file.tell() > size
            file.seek(file.tell() - size if cut else 0)
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    return text.partition("\n")[2] if cut else text
