"""OpenAI-compatible servers as arms: `transformers serve`, vLLM, llama.cpp, Ollama and the like.

A server may be slow, refuse, break off in the middle or die. What may pass is tried again with back-off; what will not
(no such model, no access) ends at once. An answer counts only when it is whole. If a server stays away, the comparison
stops and says so: what was answered is kept and not asked again, and nothing is scored as if it had been answered.
"""

import json
import os
import random
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cached_property

from common.data.examples import Message
from common.errors import ExitCode, Problem, UserError
from common.generation.answers import Answer, Decoding, Request, without_thought

OLLAMA_URL = "http://localhost:11434/v1"
ATTEMPTS = 6
FIRST_WAIT_S = 1.0  # doubles: 1, 2, 4, 8, 16, at most 30
LONGEST_WAIT_S = 30.0
TIMEOUT_S = 600.0  # a 7B on a CPU takes minutes for one document; after each time that it was too little, as much more
AT_ONCE = 4
_TAGS_TIMEOUT_S = 10.0


_STOPS, _LIMITS = ("stop", "eos", "eos_token", "end_turn", "stop_sequence"), ("length", "max_tokens", "model_length")
ENDS = dict.fromkeys(_STOPS, "stop") | dict.fromkeys(_LIMITS, "length")
REFUSALS = ("content_filter", "tool_calls", "function_call")  # other ends may be a server's trouble, and pass


class HalfAnswer(Exception):
    """The server's reply lacks what an answer needs; ``answer`` is what to take it for where it comes every time."""

    def __init__(self, what: str, answer: Answer | None = None):
        super().__init__(what)
        self.answer = answer


class ServerArm:
    """A model behind an OpenAI-compatible API. The server applies its own chat template."""

    def __init__(
        self, name: str, model: str, url: str, *, timeout_s: float = TIMEOUT_S, attempts: int = ATTEMPTS,
        first_wait_s: float = FIRST_WAIT_S, at_once: int = AT_ONCE,
    ):  # fmt: skip
        self.name = name
        self._model = model
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._attempts = attempts
        self._first_wait_s = first_wait_s
        self._at_once = at_once
        self._stop = threading.Event()

    @property
    def identity(self) -> dict:
        """Address and model name: a server does not tell the hash of its weights."""
        return {"kind": "server", "url": self._url, "model": self._model}

    @property
    def description(self) -> dict:
        return {"model": self._model, "url": self._url}

    def check(self, conversations: Sequence[Sequence[Message]], sources: Sequence[str]) -> None:
        """What fits only the server knows: it refuses, ends with "length", or (Ollama) leaves out the first turns."""

    @cached_property
    def _client(self):
        import openai

        key = os.environ.get("OPENAI_API_KEY") or "local"
        return openai.OpenAI(base_url=self._url, api_key=key, max_retries=0)

    def answer(self, requests: Sequence[Request], decoding: Decoding) -> Iterator[list[tuple[Request, Answer]]]:
        """Yield answered requests as they come in. ``UserError`` (69) when the server stays away or refuses."""
        self._stop.clear()
        with ThreadPoolExecutor(self._at_once) as pool:
            waiting = {pool.submit(self._ask, request, decoding): request for request in requests}
            try:
                while waiting:
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    yield [
                        (waiting.pop(future), future.result()) for future in list(done) if future.exception() is None
                    ]
                    if failed := done & waiting.keys():
                        yield self._collect(waiting)
                        raise failed.pop().exception()
            finally:
                self._stop.set()
                for future in waiting:
                    future.cancel()

    def _collect(self, waiting: dict[Future, Request]) -> list[tuple[Request, Answer]]:
        """Return what is still answered of the requests under way; those that are not yet are given up."""
        self._stop.set()
        begun = {future: request for future, request in waiting.items() if not future.cancel()}
        return [(request, future.result()) for future, request in begun.items() if future.exception() is None]

    def _ask(self, request: Request, decoding: Decoding) -> Answer:
        import openai

        transient = (openai.APIConnectionError, openai.APITimeoutError, openai.RateLimitError, HalfAnswer,
                     openai.InternalServerError, openai.APIResponseValidationError, json.JSONDecodeError)  # fmt: skip
        timeout_s = self._timeout_s
        for attempt in range(1, self._attempts + 1):
            try:
                return self._ask_once(request, decoding, timeout_s)
            except transient as error:
                if isinstance(error, openai.APITimeoutError):
                    timeout_s += self._timeout_s
                if attempt == self._attempts and (answer := getattr(error, "answer", None)):
                    return answer
                if attempt == self._attempts or self._stop.is_set():
                    raise self._gone(error) from error
                self._pause(attempt, error)
            except openai.APIStatusError as error:
                raise self._refused(error) from error
        raise AssertionError("unreachable")

    def _ask_once(self, request: Request, decoding: Decoding, timeout_s: float) -> Answer:
        options = {"seed": decoding.seed + request.sample} if decoding.temperature > 0 else {}
        reply = self._client.chat.completions.create(
            model=self._model, messages=request.as_dicts(), max_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature, timeout=timeout_s, **options,
        )  # fmt: skip
        choices = getattr(reply, "choices", None)
        if not choices or choices[0].message is None or choices[0].finish_reason is None:
            raise HalfAnswer("a reply without a finished answer")
        text = choices[0].message.content
        reason = choices[0].finish_reason
        usage = (getattr(reply.usage, "prompt_tokens", 0) or 0, getattr(reply.usage, "completion_tokens", 0) or 0)
        if reason not in ENDS:
            what = f"the server ended with '{reason}'"
            answer = Answer(text or "", "error", *usage, error=what)
            if reason in REFUSALS:
                return answer
            raise HalfAnswer(what, answer)
        if text is None and ENDS[reason] != "length":  # a model may think until it is cut, and never begin to answer
            raise HalfAnswer("a reply without text")
        return Answer(without_thought(text or "", begun=True), ENDS[reason], *usage)

    def _pause(self, attempt: int, error: Exception) -> None:
        """Wait before the next try: what the server asks for, or longer each time, never in step with other threads."""
        seconds = min(self._first_wait_s * 2 ** (attempt - 1), LONGEST_WAIT_S) * random.uniform(0.75, 1.25)
        asked = getattr(getattr(error, "response", None), "headers", {}).get("retry-after", "")
        if asked.isdecimal():
            seconds = max(seconds, min(int(asked), 10 * LONGEST_WAIT_S))
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._stop.wait(min(left, 1.0)):
            pass

    def _gone(self, error: Exception) -> UserError:
        return UserError(
            Problem(
                f"{self.name}: {self._url} gave no whole answer in {self._attempts} tries ({_short(error)})",
                "what it answered before is kept",
                "start the server again, then run the same command: it goes on where it stopped",
            ),
            ExitCode.UNAVAILABLE,
        )

    def _refused(self, error) -> UserError:
        return UserError(
            Problem(
                f"{self.name}: {self._url} refuses model '{self._model}': {_short(error)}",
                next_step="check name, address and OPENAI_API_KEY",
            ),
            ExitCode.UNAVAILABLE,
        )


class OllamaArm(ServerArm):
    """A model of the Ollama on this machine, which tells what a name stands for at the moment."""

    def __init__(self, name: str, model: str, url: str = OLLAMA_URL, **options):
        super().__init__(name, model, url, **options)

    @cached_property
    def identity(self) -> dict:
        """Address, name and digest, so that a model made anew under its old name is asked anew."""
        return super().identity | ({"digest": digest} if (digest := self._digest()) else {})

    def _digest(self) -> str | None:
        try:
            with urllib.request.urlopen(f"{self._url.removesuffix('/v1')}/api/tags", timeout=_TAGS_TIMEOUT_S) as reply:
                models = json.load(reply)["models"]
            names = (self._model, f"{self._model}:latest")
            return next((model["digest"] for model in models if model["name"] in names), None)
        except (OSError, ValueError, KeyError, TypeError):
            return None  # what keeps it from answering is found, and told, when it is asked


def _short(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "…"
