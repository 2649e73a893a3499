"""What an arm is asked and what it answers, and the file that keeps answers between runs."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from common.data.examples import Message
from common.errors import ExitCode, Problem, UserError

_THOUGHT = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)
_END_OF_THOUGHT = re.compile(r"\A(?:(?!<think>).)*?</think>\s*", re.DOTALL)


@dataclass(frozen=True)
class Decoding:
    """How answers are drawn; the same for every arm. Temperature 0 is greedy. Sampling repeats with its seed."""

    max_new_tokens: int = 1024
    temperature: float = 0.0
    seed: int = 0
    samples: int = 1

    def __post_init__(self):
        problems = []
        if self.max_new_tokens < 1:
            problems.append(Problem(f"--max-new-tokens {self.max_new_tokens}", "1 or more"))
        if not 0.0 <= self.temperature <= 10.0:
            problems.append(Problem(f"--temperature {self.temperature}", "0 (greedy) to 10"))
        if self.samples < 1:
            problems.append(Problem(f"--samples {self.samples}", "1 or more"))
        elif self.samples > 1 and self.temperature == 0:
            problems.append(
                Problem(f"--samples {self.samples}: greedy answers are all the same", "add --temperature 0.7")
            )
        if problems:
            raise UserError(problems, ExitCode.USAGE)


@dataclass(frozen=True)
class Request:
    """One answer asked for: the conversation so far, and which of its samples this is."""

    messages: tuple[Message, ...]
    sample: int = 0

    def as_dicts(self) -> list[dict[str, str]]:
        return [message.as_dict() for message in self.messages]


@dataclass(frozen=True)
class Answer:
    """Text with how it ended and what it cost.

    ``finish_reason`` is "stop" (it ended by itself), "length" (cut at max_new_tokens) or "error" (refused or broken).
    Token counts are 0 where a server does not tell.
    """

    text: str
    finish_reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""

    @property
    def is_empty(self) -> bool:
        return not self.text.strip()


def without_thought(text: str, *, begun: bool = False) -> str:
    """Return an answer without the thought before it, between tags of which some tokenizers make plain text (Qwen3).

    ``begun``: a template may have begun the thought itself, so that only the end of it is in ``text``.
    """
    text = _THOUGHT.sub("", text, count=1)
    return _END_OF_THOUGHT.sub("", text, count=1) if begun else text


class AnswerCache:
    """Answers in a JSON-lines file, keyed by everything that decides them; a line is kept once it is on the disk.

    A last line that was cut by a crash is dropped; the answer is asked for again.
    """

    def __init__(self, path: Path | None):
        self._path = path
        self._answers: dict[str, Answer] = {}
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
                self._read_line(line)

    def _read_line(self, line: str) -> None:
        try:
            record = json.loads(line)
            answer = Answer(**record["answer"])
            if answer.finish_reason != "error":
                self._answers[record["key"]] = replace(answer, text=without_thought(answer.text))
        except (ValueError, KeyError, TypeError):
            return

    def get(self, identity: dict, request: Request, decoding: Decoding) -> Answer | None:
        answer = self._answers.get(answer_key(identity, request, decoding))
        if answer and identity.get("kind") == "server":  # kept before that was taken off
            return replace(answer, text=without_thought(answer.text, begun=True))
        return answer

    def put(self, identity: dict, decoding: Decoding, answered: Sequence[tuple[Request, Answer]]) -> None:
        """Append answers and wait until they are on the disk; one that was refused or broken off is asked for again."""
        lines = []
        for request, answer in answered:
            if answer.finish_reason == "error":
                continue
            key = answer_key(identity, request, decoding)
            self._answers[key] = answer
            lines.append(json.dumps({"key": key, "answer": asdict(answer)}, ensure_ascii=True))
        if self._path is None or not lines:
            return
        try:
            self._append("".join(f"\n{line}" for line in lines))
        except OSError as error:
            problem = Problem(
                f"cannot keep answers in {self._path}: {error.strerror}", next_step="make room, run again"
            )
            raise UserError(problem, ExitCode.IO) from error

    def _append(self, text: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The newline comes first, so that a cut line of an earlier crash cannot swallow this one.
        with self._path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def answer_key(identity: dict, request: Request, decoding: Decoding) -> str:
    """sha256 over the arm's identity (weights or server), the conversation, the decoding and the sample's number."""
    how = {"max_new_tokens": decoding.max_new_tokens, "temperature": decoding.temperature}
    if decoding.temperature > 0:
        how |= {"seed": decoding.seed, "sample": request.sample}
    content = json.dumps([identity, request.as_dicts(), how], sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()
