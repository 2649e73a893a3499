"""What DSPy sees of this project: a program of one step, whose prompt is made as a comparison makes it.

Imported when a search begins; nothing else needs DSPy.
"""

from collections.abc import Callable, Sequence
from typing import Any

import dspy
from dspy import lm15

from common.data.examples import Example, Message
from common.errors import UserError
from common.generation import Answer, Decoding, generate
from common.generation.answers import AnswerCache
from common.generation.arms import Arm
from common.generation.programs import Prompt, read_demonstration, used_instructions

LOOK_AHEAD = 8  # questions answered in one batch where DSPy asks them one by one


class SearchEnded(BaseException):
    """Carries a UserError through DSPy, which turns every Exception inside a search into a score of zero."""

    def __init__(self, cause: UserError):
        super().__init__(str(cause))
        self.cause = cause


class AnswerQuestion(dspy.Signature):
    prompt: Any = dspy.InputField()
    completion: str = dspy.OutputField()


class Asker:
    """Gets answers from an arm, each one once. Shared by all copies of a program."""

    def __init__(self, arm: Arm, decoding: Decoding, cache: AnswerCache, progress: Callable[[int], None]):
        self._arm, self._decoding, self._cache, self._progress = arm, decoding, cache, progress
        self.asked = 0

    def __deepcopy__(self, memo):
        return self

    def ask(self, conversations: Sequence[Sequence[Message]], temperature: float | None = None) -> list[Answer]:
        """Raises SearchEnded when a server stays away or a prompt does not fit the model."""
        decoding = self._decoding
        if temperature:
            decoding = Decoding(decoding.max_new_tokens, temperature, decoding.seed)
        try:
            self._arm.check(conversations, [f"prompt {n}" for n in range(1, len(conversations) + 1)])
            answers = generate(self._arm, conversations, decoding, cache=self._cache)
        except UserError as error:
            raise SearchEnded(error) from error
        self.asked += len(conversations)
        self._progress(self.asked)
        return [row[0] for row in answers]


class ArmEngine:
    """An arm as the engine of a ``dspy.LM``: in process or behind a server, without DSPy's own clients."""

    def __init__(self, asker: Asker):
        self._asker = asker

    def complete(self, request: lm15.Request) -> lm15.Response:
        system = request.system if isinstance(request.system, str) else "".join(p.text for p in request.system or ())
        messages = [Message("system", system)] if system else []
        messages += [Message(message.role, message.text or "") for message in request.messages]
        (answer,) = self._asker.ask([messages], request.config.temperature)
        text = answer.text.encode("utf-8", errors="replace").decode("utf-8")
        usage = lm15.Usage(
            input_tokens=answer.prompt_tokens, output_tokens=answer.completion_tokens,
            total_tokens=answer.prompt_tokens + answer.completion_tokens,
        )  # fmt: skip
        # DSPy takes an empty answer for an error of its own; a blank is the same to a metric.
        message = lm15.Message.assistant(text if text.strip() else " ")
        reason = "length" if answer.finish_reason == "length" else "stop"
        return lm15.Response(id=None, model=request.model, message=message, finish_reason=reason, usage=usage)

    def close(self) -> None:
        """The arm is borrowed."""


class TurnsAdapter(dspy.ChatAdapter):
    """Our step as plain turns through :class:`Prompt`; any other signature (a proposer's) as DSPy does it."""

    def __init__(self):
        super().__init__(use_json_adapter_fallback=False)

    def format(self, signature, demos, inputs):
        if set(signature.fields) != set(AnswerQuestion.fields):
            return super().format(signature, demos, inputs)
        conversation = prompt_of(signature.instructions, demos).around(messages_of(inputs["prompt"]))
        return [message.as_dict() for message in conversation]

    def parse(self, signature, completion):
        if set(signature.fields) != set(AnswerQuestion.fields):
            return super().parse(signature, completion)
        return {"completion": completion}


class Answerer(dspy.Module):
    """The program: one step. ``pool`` are questions that may be asked soon; they share a batch with the one asked."""

    def __init__(self, asker: Asker, pool: Sequence[dspy.Example]):
        super().__init__()
        self.answer = dspy.Predict(AnswerQuestion)
        self._asker, self._pool = asker, _Shared(pool)

    def forward(self, prompt):
        self.ask_ahead([prompt, *self._pool.after(prompt, LOOK_AHEAD - 1)])
        return self.answer(prompt=prompt)

    def ask_ahead(self, prompts: Sequence) -> None:
        """Have all ``prompts`` answered in batches, as this program asks them; the answers are kept."""
        asked = prompt_of(self.answer.signature.instructions, self.answer.demos)
        self._asker.ask([asked.around(messages_of(prompt)) for prompt in prompts])


class _Shared:
    """Questions in a ring; not copied with the program."""

    def __init__(self, examples: Sequence[dspy.Example]):
        self._prompts = [example.prompt for example in examples]

    def __deepcopy__(self, memo):
        return self

    def after(self, prompt, count: int) -> list:
        if prompt not in self._prompts:
            return []
        start = self._prompts.index(prompt) + 1
        return (self._prompts[start:] + self._prompts[: start - 1])[:count]


def prompt_of(instructions: str, demos: Sequence) -> Prompt:
    """The prompt of a step with these ``demos`` (dicts or dspy.Example), as the comparison will read it."""
    shown = tuple(read_demonstration(dict(demo), f"demonstration {n}") for n, demo in enumerate(demos, start=1))
    return Prompt(used_instructions(instructions), shown)


def as_dspy(example: Example) -> dspy.Example:
    """A training row for DSPy: the question as text, or as a list of messages where it has several turns."""
    question = example.prompt_messages
    prompt = question[0].content if len(question) == 1 else [message.as_dict() for message in question]
    return dspy.Example(prompt=prompt, completion=example.completion).with_inputs("prompt")


def messages_of(prompt: str | list) -> list[Message]:
    if isinstance(prompt, str):
        return [Message("user", prompt)]
    return [Message(turn["role"], turn["content"]) for turn in prompt]
