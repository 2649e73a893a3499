"""What a person wants to see of a data set before training on it: counts, lengths, and two examples in colour."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.chat.encoder import TRAINED_BIT, Encoded
from common.data.examples import Example, Loaded
from common.data.leaks import KINDS
from common.data.problems import printable

_BAR = 40
_BATCH = 500
_SHOWN_CHARS = 1500


@dataclass(slots=True)
class Span:
    """Text of one kind: trained on, or not."""

    text: str
    trained: bool


@dataclass(slots=True)
class View:
    """What is to be shown of one file."""

    title: str
    facts: list[tuple[str, str]]
    notes: list[str]
    histogram: list[tuple[str, int]]
    unit: str
    examples: list[tuple[str, list[Span]]] = field(default_factory=list)


def view_file(title: str, loaded: Loaded, tokenizer=None, limit: int = 0, on_overlong: str = "", loss_on: str = ""):
    """Return the :class:`View` of a file that was read; with a tokenizer it counts tokens, else characters."""
    if tokenizer is None:
        sizes = np.array([sum(map(len, example.texts)) for example in loaded.examples])
        return View(f"{title}: {loaded.path}", _facts(loaded), loaded.notes, histogram(sizes), "characters")
    from common.chat.encoder import encoder_for

    encoder = encoder_for(tokenizer)
    lengths, trained = _count_tokens(encoder, loaded.examples, loss_on)
    total = int(lengths.sum())
    facts = _facts(loaded)
    facts.append(("tokens", f"{total:,}, {trained:,} of them trained ({trained / max(1, total):.0%})"))
    middle = np.percentile(lengths, (50, 95, 100))
    facts.append(("tokens an example", "median {:,.0f}, p95 {:,.0f}, longest {:,.0f}".format(*middle)))
    over = np.flatnonzero(lengths > limit)
    facts.append((f"over the limit of {limit:,}", _fate(over, loaded.examples, on_overlong)))
    view = View(f"{title}: {loaded.path}", facts, loaded.notes, histogram(lengths, limit), "tokens")
    for at in _two_typical(lengths):
        encoded = encoder.encode_many([loaded.examples[at]], loss_on=loss_on)[0]
        view.examples.append((f"{loaded.examples[at].source} ({len(encoded):,} tokens)", spans(tokenizer, encoded)))
    return view


def describe_overlaps(counts: Mapping[str, int], allowed: bool) -> str:
    """One line about the leaks between files, by kind."""
    told = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS)
    return f"overlaps between the files: {told}{', allowed' if allowed else ''}"


def spans(tokenizer, encoded: Encoded) -> list[Span]:
    """Decode an example into stretches of trained and untrained text, control tokens written out."""
    found: list[Span] = []
    start = 0
    mask = encoded.completion_mask
    for at in range(1, len(mask) + 1):
        if at == len(mask) or mask[at] != mask[start]:
            text = tokenizer.decode(encoded.input_ids[start:at], skip_special_tokens=False)
            found.append(Span(visible(text), mask[start]))
            start = at
    return found


def visible(text: str) -> str:
    """Text of a data set, fit for a terminal: line breaks stay, all else that is not visible becomes an escape."""
    if len(text) > _SHOWN_CHARS:
        half = _SHOWN_CHARS // 2
        start, end = text[:half], text[-half:]
        if "\n" in start[half // 2 :]:  # whole lines read better
            start = start[: start.rindex("\n")]
        if "\n" in end[: half // 2]:
            end = end[end.index("\n") + 1 :]
        text = f"{start}\n[… {len(text) - len(start) - len(end):,} characters left out …]\n{end}"
    return "\n".join(printable(line, limit=10**9) for line in text.split("\n"))


def histogram(sizes: np.ndarray, limit: int = 0, bins: int = 12) -> list[tuple[str, int]]:
    """Return (range, count) pairs over round bounds, from the shortest to the longest; ``limit`` is one of the bounds
    when it lies inside, and what is beyond it is marked.
    """
    if not len(sizes):
        return []
    bottom, top = max(1, int(sizes.min())), int(sizes.max())
    step = max(1, -(-(top - bottom + 1) // bins))
    scale = 10 ** (len(str(step)) - 1)
    step = next(nice * scale for nice in (1, 2, 5, 10) if nice * scale >= step)
    first = (bottom - 1) // step * step
    edges = sorted({*range(first, top + step, step), *([limit] if first < limit < top else [])})
    counts, _ = np.histogram(sizes, [e + 0.5 if e else 0 for e in edges])
    return [
        (f"{'over the limit ' if 0 < limit <= a else ''}{a + 1:,}{f'–{b:,}' if b > a + 1 else ''}", int(n))
        for a, b, n in zip(edges, edges[1:], counts, strict=False)
    ]


def plain_lines(view: View) -> Iterator[str]:
    """The view for a log: no colours; what is trained stands between ⟦ and ⟧."""
    yield from _head(view)
    for title, parts in view.examples:
        yield f"  example {title}; trained text between ⟦ ⟧:"
        text = "".join(f"⟦{part.text}⟧" if part.trained else part.text for part in parts)
        yield from (f"    | {line}" for line in text.split("\n"))


def print_rich(view: View) -> None:
    """The view for a terminal: trained text green, the rest dim."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    title, *lines = _head(view)
    console.print(Text(title, style="bold"))
    for line in lines:
        console.print(Text(line))
    for title, parts in view.examples:
        text = Text(f"\n  example {title}: ").append("trained", "bold green").append(", not trained\n\n", "dim")
        for part in parts:
            text.append(part.text, "bold green" if part.trained else "dim")
        console.print(text, soft_wrap=True)


def _head(view: View) -> Iterator[str]:
    yield view.title
    width = max(len(name) for name, _ in view.facts)
    for name, value in view.facts:
        yield f"  {name:<{width}}  {value}"
    for note in view.notes:
        yield f"  note: {printable(note)}"
    most = max((count for _, count in view.histogram), default=0)
    width = max((len(name) for name, _ in view.histogram), default=0)
    yield f"  {view.unit} an example"
    for name, count in view.histogram:
        bar = "█" * round(_BAR * count / most) or ("▏" if count else "")
        yield f"    {name:>{width}}  {count:>7,}  {bar}".rstrip()


def _count_tokens(encoder, examples: Sequence[Example], loss_on: str) -> tuple[np.ndarray, int]:
    """Return (tokens of each example, trained tokens of all)."""
    lengths, trained = [np.empty(0, np.int64)], 0
    for start in range(0, len(examples), _BATCH):
        tokens, batch = encoder.encode_packed(examples[start : start + _BATCH], loss_on=loss_on)
        lengths.append(batch)
        trained += int((tokens >> TRAINED_BIT).sum())
    return np.concatenate(lengths), trained


def _facts(loaded: Loaded) -> list[tuple[str, str]]:
    return [
        ("shape", loaded.shape),
        ("rows", f"{loaded.rows:,}, {len(loaded):,} of them usable"),
        ("duplicates", f"{loaded.repeats:,} rows repeat an earlier one" if loaded.repeats else "none"),
        ("sha256", loaded.sha256),
    ]


def _fate(over: np.ndarray, examples: Sequence[Example], on_overlong: str) -> str:
    if not len(over):
        return "none"
    fates = {"drop": "will be dropped", "truncate-prompt": "will lose the beginning of the prompt"}
    listed = ", ".join(examples[at].source for at in over[:5])
    fate = fates.get(on_overlong, "an error when trained")
    return f"{len(over):,} {fate}: {listed}{', …' if len(over) > 5 else ''}"


def _two_typical(lengths: np.ndarray) -> list[int]:
    """The examples at the lower and the upper quartile of length."""
    order = np.argsort(lengths, kind="stable")
    return sorted({int(order[len(order) // 4]), int(order[(3 * len(order)) // 4])})
