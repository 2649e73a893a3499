"""Examples that are longer than the limit: refused, left out, or given less of a prompt. An answer is never cut."""

import heapq
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from common.chat.encoder import ID_BITS, ChatEncoder
from common.data.examples import Example, Message
from common.data.problems import option_for
from common.errors import ExitCode, Problem, UserError

ON_OVERLONG = ("error", "drop", "truncate-prompt")
MAX_UNKNOWN_SHARE = 0.01
_LISTED = 20


@dataclass(slots=True)
class LengthReport:
    """What became of the examples: counts of examples and tokens, and the longest of those over the limit.

    Parts made by several processes are merged in the order of the file.
    """

    examples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    unknown_tokens: int = 0
    longest: int = 0
    overlong: int = 0
    truncated: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    worst: list[tuple[int, str]] = field(default_factory=list)
    prompt_lengths: array = field(default_factory=lambda: array("L"))  # of the examples over the limit
    unfit: list[str] = field(default_factory=list)  # too long even without a prompt

    def add(self, tokens: np.ndarray, lengths: np.ndarray, unknown_id: int | None) -> None:
        """Count examples that are kept: tokens with the mask in their highest bit, and the length of each example."""
        self.examples += len(lengths)
        self.tokens += len(tokens)
        self.trained_tokens += int((tokens > ID_BITS).sum())
        self.longest = max(self.longest, int(lengths.max(initial=0)))
        if unknown_id is not None:
            self.unknown_tokens += int((tokens & ID_BITS == unknown_id).sum())

    def add_overlong(self, tokens: np.ndarray, source: str) -> None:
        """Count one example that is over the limit."""
        self.overlong += 1
        heapq.heappush(self.worst, (len(tokens), source))
        if len(self.worst) > _LISTED:
            heapq.heappop(self.worst)
        trained = np.flatnonzero(tokens > ID_BITS)
        self.prompt_lengths.append(int(trained[0]) if len(trained) else len(tokens))

    def merge(self, other: "LengthReport") -> None:
        for name in ("examples", "tokens", "trained_tokens", "unknown_tokens", "overlong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest = max(self.longest, other.longest)
        self.truncated += other.truncated
        self.dropped += other.dropped
        self.unfit += other.unfit
        self.worst = heapq.nlargest(_LISTED, self.worst + other.worst)
        heapq.heapify(self.worst)
        self.prompt_lengths += other.prompt_lengths

    def check(self, max_length_tokens: int, on_overlong: str) -> None:
        """Raise UserError 65 when examples are too long for the policy, nothing is left, or too much is unknown."""
        total = self.examples + self.overlong - len(self.truncated)
        limit = f"max_length_tokens={max_length_tokens}"
        if self.overlong and self.overlong == total and not self.truncated:
            raise UserError(
                Problem(
                    f"all {total:,} examples exceed {limit}; prompt lengths {_percentiles(self.prompt_lengths)}",
                    "an answer is never cut",
                    "raise max_length_tokens",
                ),
                ExitCode.DATA,
            )
        if self.overlong and on_overlong == "error":
            raise UserError(
                Problem(
                    f"{self.overlong:,} of {total:,} examples exceed {limit}; the longest: {self._list_worst()}",
                    "an answer is never cut",
                    "raise max_length_tokens, or set on_overlong to drop or truncate-prompt: "
                    + option_for("on_overlong", "drop"),
                ),
                ExitCode.DATA,
            )
        if self.unfit:
            listed = ", ".join(self.unfit[:_LISTED])
            raise UserError(
                Problem(
                    f"the answers of {len(self.unfit):,} examples alone exceed {limit}: {listed}",
                    "an answer is never cut",
                    f"raise max_length_tokens, or leave them out: {option_for('on_overlong', 'drop')}",
                ),
                ExitCode.DATA,
            )
        if self.unknown_tokens > MAX_UNKNOWN_SHARE * self.tokens:
            raise UserError(
                Problem(
                    f"{self.unknown_tokens / self.tokens:.1%} of the tokens are unknown to the tokenizer",
                    f"allowed is {MAX_UNKNOWN_SHARE:.0%}",
                    "use a model whose tokenizer knows this script",
                ),
                ExitCode.DATA,
            )

    def summary(self) -> dict:
        """For the manifest."""
        return {
            "encoded": self.examples,
            "tokens": self.tokens,
            "trained_tokens": self.trained_tokens,
            "longest_tokens": self.longest,
            "unknown_tokens": self.unknown_tokens,
            "overlong": self.overlong,
            "prompts_truncated": len(self.truncated),
            "prompts_truncated_rows": self.truncated[:1000],
            "overlong_dropped": len(self.dropped),
            "overlong_dropped_rows": self.dropped[:1000],
        }

    def notes(self, max_length_tokens: int) -> list[str]:
        """What is worth telling that is not an error, one line each."""
        told = ((self.truncated, "lost the beginning of their prompt"), (self.dropped, "were left out"))
        limit = f"over {max_length_tokens:,} tokens"
        return [
            f"{len(rows):,} of the examples {limit} {fate}: {', '.join(rows[:5])}{', …' if len(rows) > 5 else ''}"
            for rows, fate in told
            if rows
        ]

    def _list_worst(self) -> str:
        return ", ".join(f"{source} ({length:,} tokens)" for length, source in sorted(self.worst, reverse=True))


@dataclass(slots=True)
class LengthPolicy:
    """Encodes examples and applies ``on_overlong``; what happened is in ``report``; ``shortened`` holds examples that
    got a shorter prompt, by their place among those encoded last.
    """

    encoder: ChatEncoder
    max_length_tokens: int
    on_overlong: str = "error"
    loss_on: str = "assistant"
    report: LengthReport = field(default_factory=LengthReport)
    shortened: dict[int, Example] = field(default_factory=dict)

    def __post_init__(self):
        if self.on_overlong not in ON_OVERLONG:
            raise ValueError(f"on_overlong is {self.on_overlong!r}, not one of {ON_OVERLONG}")

    def encode(self, examples: Sequence[Example]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (tokens, lengths of the kept examples, which were kept bool [examples])."""
        tokens, lengths = self.encoder.encode_packed(examples, loss_on=self.loss_on)
        kept = np.ones(len(examples), bool)
        self.shortened = {}
        over = np.flatnonzero(lengths > self.max_length_tokens)
        if len(over):
            pieces = np.split(tokens, np.cumsum(lengths)[:-1])
            for at in over:
                pieces[at] = self._fit(int(at), examples[at], pieces[at])
                kept[at] = len(pieces[at]) > 0
            tokens = np.concatenate(pieces)
            lengths = np.array([len(piece) for piece in pieces], np.int64)[kept]
        self.report.add(tokens, lengths, self.encoder.unknown_token_id)
        return tokens, lengths, kept

    def _fit(self, at: int, example: Example, tokens: np.ndarray) -> np.ndarray:
        """What becomes of an example that is too long: nothing, or one with a shorter prompt."""
        self.report.add_overlong(tokens, example.source)
        if self.on_overlong == "truncate-prompt":
            shorter = truncate_prompt(self.encoder, example, self.max_length_tokens, self.loss_on)
            if shorter is not None:
                self.shortened[at], tokens = shorter
                self.report.truncated.append(example.source)
                return tokens
            self.report.unfit.append(example.source)
        elif self.on_overlong == "drop":
            self.report.dropped.append(example.source)
        return tokens[:0]


def truncate_prompt(
    encoder: ChatEncoder, example: Example, limit: int, loss_on: str
) -> tuple[Example, np.ndarray] | None:
    """Return ``example`` with as much of its prompt as fits into ``limit`` tokens, and its tokens; None when its answer
    alone does not fit.

    First whole earlier turns go, the oldest first; then the beginning of the last question (what stands next to the
    answer matters most). The system turn and every token of the answer stay.
    """
    if not example.messages:
        return None
    system = [message for message in example.messages if message.role == "system"]
    turns = [message for message in example.messages if message.role != "system"]

    def encode(kept: list[Message]) -> tuple[Example, np.ndarray]:
        shorter = replace(example, messages=tuple(system + kept))
        return shorter, encoder.encode_packed([shorter], loss_on=loss_on)[0]

    while len(turns) > 2:
        turns = turns[2:]
        encoded = encode(turns)
        if len(encoded[1]) <= limit:
            return encoded
    question, answer = turns
    fits, low, high = None, 1, len(question.content)
    while low <= high:
        middle = (low + high) // 2
        encoded = encode([Message("user", question.content[-middle:]), answer])
        if len(encoded[1]) <= limit:
            fits, low = encoded, middle + 1
        else:
            high = middle - 1
    return fits


def _percentiles(lengths: array) -> str:
    ordered = sorted(lengths)
    return "p50/p95 " + "/".join(f"{ordered[min(len(ordered) - 1, int(len(ordered) * p))]:,}" for p in (0.5, 0.95))
