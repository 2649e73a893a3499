"""Runs on a screen: the table of `make status`, and the view of `make watch` that follows them."""

import time
from collections.abc import Callable, Sequence

from common.runs.status import STATES

COLOURS = dict.fromkeys(STATES, "cyan") | {"completed": "green", "stopped": "yellow", "failed": "red", "crashed": "red"}
HEADER = ("RUN", "STATE", "PID", "ELAPSED", "STEP", "LOSS", "TOKENS/S", "ETA", "MEMORY", "UPDATED (UTC)")
_BLOCKS = "▁▂▃▄▅▆▇█"
_BAR_CELLS = 24


def print_table(records: Sequence[dict]) -> None:
    """Print one row a run, and below it what else there is to say; colours on terminals only."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    rows = [HEADER, *(format_row(record) for record in records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for row, record in zip(rows, [None, *records], strict=True):
        line = "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        console.print(Text(line.rstrip(), style="bold" if record is None else COLOURS[record["state"]]), soft_wrap=True)
        for note in notes_of(record) if record else ():
            console.print(Text(f"    {note}", style="dim"), soft_wrap=True)


def watch(read: Callable[[], list[dict]], every_s: float, until: Callable[[list[dict]], bool]) -> None:
    """Show what ``read`` returns on the whole terminal, again ``every_s`` seconds, until ``until`` it or Ctrl-C."""
    from rich.live import Live

    records = read()
    with Live(draw(records), screen=True, auto_refresh=False) as live:
        while not until(records):
            live.update(draw(records), refresh=True)
            time.sleep(every_s)
            records = read()


def draw(records: Sequence[dict]):
    """Return the live view: running ones first, each with bar, sparkline, speed, memory, next save and warning."""
    from rich.console import Group
    from rich.text import Text

    title = Text(f"{sum(r['running'] for r in records)} of {len(records)} runs at work    ", style="bold")
    title.append("Ctrl-C ends the watching, not the runs", style="dim")
    lines = [title, Text()]
    for record in sorted(records, key=lambda r: not r["running"]):
        lines += [_headline(record), *_details(record)]
        lines += [Text(f"    {note}", style="dim") for note in notes_of(record, measures=False)] + [Text()]
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(*lines)


def notes_of(record: dict, *, measures: bool = True) -> list[str]:
    """Return the lines below a run: how far, the losses and the next save, why it ended, a warning, its last words."""
    notes = []
    if measures and record["running"] and record["losses"]:
        notes.append(f"{progress_bar(record)}  loss {sparkline(record['losses'])}  {next_save(record)}".rstrip())
    warning = record["last_warning"]
    if warning and warning not in record["last_log_lines"]:
        notes.append(warning)
    return [note for note in [record["reason"], *notes, *record["last_log_lines"]] if note]


def format_row(record: dict) -> tuple[str, ...]:
    """Return the cells of one run, in the order of HEADER; "-" where nothing is known."""
    memory = record["rss_gib"] if record["running"] else record["peak_rss_gib"]
    step = None if record["step"] is None else f"{record['step']}/{record['total_steps'] or '?'}"
    return (
        record["name"],
        "stopping" if record["stop_requested"] else record["state"],
        str(record["pid"]) if record["running"] and record["pid"] else "-",
        format_duration(record["elapsed_s"]),
        step or "-",
        format_number(record["loss"], ".4f"),
        format_number(record["tokens_per_s"], ".0f"),
        format_duration(record["eta_s"]),
        format_number(memory, ".2f", " GiB"),
        str(record["updated_at"] or "-").removesuffix("+00:00").replace("T", " "),
    )


def progress_bar(record: dict) -> str:
    """Return "━━━━────  44 %" for a run's steps, "" when their number is not known."""
    if record["step"] is None or not record["total_steps"]:
        return ""
    share = min(1.0, record["step"] / record["total_steps"])
    filled = round(_BAR_CELLS * share)
    return f"{'━' * filled}{'─' * (_BAR_CELLS - filled)} {share:4.0%}"


def sparkline(values: Sequence[float]) -> str:
    """Return the course of ``values`` in block characters, from the lowest of them to the highest."""
    low, high = min(values), max(values)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[round((value - low) * scale)] for value in values)


def next_save(record: dict) -> str:
    seconds = record["next_save_s"]
    return f"next save in {format_duration(seconds)}" if isinstance(seconds, int | float) else ""


def format_number(value, form: str, unit: str = "") -> str:
    return format(value, form) + unit if isinstance(value, int | float) else "-"


def format_duration(seconds) -> str:
    """Return 3723 as "1:02:03", "-" for what is no number."""
    if not isinstance(seconds, int | float):
        return "-"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _headline(record: dict):
    from rich.text import Text

    cells = dict(zip(HEADER, format_row(record), strict=True))
    line = Text(f"{record['name']}  ", style="bold")
    line.append(cells["STATE"], style=COLOURS[record["state"]])
    facts = [record["recipe"]] if record["recipe"] not in (None, record["name"]) else []
    if record["running"]:
        facts += [f"{cells['ELAPSED']} so far", f"process {cells['PID']}"]
    else:
        facts += [f"took {cells['ELAPSED']}", f"step {cells['STEP']}", f"loss {cells['LOSS']}"]
    line.append("  " + "  ".join(facts), style="dim")
    return line


def _details(record: dict) -> list:
    from rich.text import Text

    if not record["running"]:
        return []
    cells = dict(zip(HEADER, format_row(record), strict=True))
    losses = record["losses"]
    facts = (  # a line each, so that all of it can be read in 80 columns
        [f"step {cells['STEP']}", f"{cells['TOKENS/S']} tokens/s", f"eta {cells['ETA']}"],
        [f"loss {cells['LOSS']} {sparkline(losses)}" if losses else ""],
        [f"memory {cells['MEMORY']} (peak {format_number(record['peak_rss_gib'], '.2f')})", next_save(record)],
    )
    first, *others = ("   ".join(fact for fact in line if fact and "-  " not in fact) for line in facts)
    line = Text(f"    {progress_bar(record)}", style=COLOURS[record["state"]])
    line.append(f"   {first}", style="default")
    return [line, *(Text(f"    {other}") for other in others if other)]
