"""The one function that turns an example into token ids and a loss mask: for training, evaluation, chat and export.

The tokenizer's own chat template is used, so the model is trained on what it will be served with. Control tokens come
from the template only; the same characters in the data stay text. See :mod:`common.chat.skeleton` for how.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from common.chat.skeleton import TEMPLATE_DATE, Part, Skeleton, Slot, build_skeleton, render
from common.chat.words import Backend
from common.data.examples import Example, Message
from common.errors import ExitCode, Problem, UserError

LOSS_ON = ("assistant", "all")
TRAINED_BIT = np.uint32(31)  # of a token of 32 bits, in data sets
ID_BITS = np.uint32((1 << 31) - 1)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids and, for each, whether it is trained on. Both have one entry a token."""

    input_ids: list[int]
    completion_mask: list[bool]

    def __len__(self) -> int:
        return len(self.input_ids)


def unpack(tokens: np.ndarray) -> Encoded:
    """Turn tokens with the mask in their highest bit into :class:`Encoded`."""
    return Encoded((tokens & ID_BITS).tolist(), (tokens > ID_BITS).tolist())


def encode_example(tokenizer, example: Example, *, loss_on: str = "assistant") -> Encoded:
    """Encode one example with the tokenizer's chat template; see :meth:`ChatEncoder.encode_many`."""
    return encoder_for(tokenizer).encode_many([example], loss_on=loss_on)[0]


def encode_prompt(tokenizer, messages: Sequence[Message | dict]) -> list[int]:
    """Encode a conversation up to where the assistant's next answer begins.

    The result is, id for id, the beginning of what :func:`encode_example` gives for the conversation with any answer.
    """
    return encoder_for(tokenizer).encode_prompt(messages)


def stop_token_ids(tokenizer, own: int | list[int] | None = None) -> list[int]:
    """The tokens at which generation ends: the template's end of turn, the end of the sequence, and those that the
    model itself names in its generation config (``own``).
    """
    named = own if isinstance(own, list) else [own]
    return sorted({*encoder_for(tokenizer).stop_token_ids(), *(token for token in named if token is not None)})


_encoders: dict[tuple, "ChatEncoder"] = {}
_ENCODERS_KEPT = 4


def encoder_for(tokenizer) -> "ChatEncoder":
    """The encoder of this tokenizer, made once and made anew when its template or its tokens change."""
    if isinstance(tokenizer.chat_template, dict):
        raise UserError(
            Problem(
                "the tokenizer has several chat templates", "one is needed", "keep one, as its chat_template.jinja"
            ),
            ExitCode.CONFIG,
        )
    key = (id(tokenizer), tokenizer.chat_template, len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    encoder = _encoders.get(key)
    if encoder is None:
        while len(_encoders) >= _ENCODERS_KEPT:
            _encoders.pop(next(iter(_encoders)))
        encoder = _encoders[key] = ChatEncoder(tokenizer)  # holds the tokenizer, so its id stays its own
    return encoder


class ChatEncoder:
    """Encodes examples with one tokenizer; keeps the skeleton of every sequence of roles it has met."""

    def __init__(self, tokenizer):
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                Problem("this tokenizer has no fast form", "tokenizer.json is needed", "convert it with transformers"),
                ExitCode.CONFIG,
            )
        self._tokenizer = tokenizer
        self._special_tokens = {
            token.content: (token_id, token.lstrip, token.rstrip)
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if token.special
        }
        self._bos = (tokenizer.bos_token, tokenizer.bos_token_id)
        self._eos = (tokenizer.eos_token, tokenizer.eos_token_id)
        self._backend = Backend(tokenizer.backend_tokenizer)
        self._skeletons: dict[tuple[str, ...], Skeleton] = {}
        self.unknown_token_id = tokenizer.unk_token_id
        if self.unknown_token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
            self.unknown_token_id = None  # then it says nothing

    def identity(self) -> str:
        """A hash of all that decides the ids: vocabulary, rules, control tokens, chat template."""
        parts = [self._backend.identity(), self._tokenizer.chat_template, self._bos, self._eos]
        parts += [sorted(self._special_tokens.items()), self._backend.marks_word_start, TEMPLATE_DATE]
        return sha256(json.dumps(parts).encode()).hexdigest()

    def encode_many(self, examples: Iterable[Example], *, loss_on: str = "assistant") -> list[Encoded]:
        """Encode examples. ``loss_on``: "assistant" trains each of the assistant's turns with its end-of-turn token;
        "all" trains every token.

        Running text gets one BOS and one EOS (where the tokenizer has them) and is trained whole, but for the BOS.
        Raises UserError 65 or 78 naming the example.
        """
        tokens, lengths = self.encode_packed(examples, loss_on=loss_on)
        ends = np.cumsum(lengths)
        return [unpack(tokens[end - length : end]) for end, length in zip(ends, lengths, strict=True)]

    def encode_packed(
        self, examples: Iterable[Example], *, loss_on: str = "assistant"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Like :meth:`encode_many`, for many: (uint32 tokens end to end with the mask in the highest bit, lengths)."""
        if loss_on not in LOSS_ON:
            raise ValueError(f"loss_on is {loss_on!r}, not one of {LOSS_ON}")
        plans = [self._plan(example) for example in examples]
        items = [item for plan in plans for item in plan]
        tokens, item_lengths = self._encode_items(items)
        trained = np.array([is_trained or loss_on == "all" for _, is_trained in items], np.uint32)
        tokens = tokens | np.repeat(trained << TRAINED_BIT, item_lengths)
        tokens_before = np.concatenate(([0], np.cumsum(item_lengths)))
        ends = np.cumsum([len(plan) for plan in plans], dtype=np.int64)
        return tokens, np.diff(tokens_before[ends], prepend=0)

    def encode_prompt(self, messages: Sequence[Message | dict]) -> list[int]:
        messages = [m if isinstance(m, Message) else Message(m["role"], m["content"]) for m in messages]
        skeleton = self._skeleton_for(messages, (*(m.role for m in messages), "assistant"), generation_prompt=True)
        plan = self._fill(skeleton.parts[: skeleton.prompt_parts], messages)
        return self._encode_items(plan)[0].tolist()

    def prompt_outline(self, roles: Sequence[str]) -> list[str | Slot]:
        """What the template writes for a conversation of these roles, up to the next answer: text, and slots for
        contents. Raises UserError like :meth:`encode_prompt`.
        """
        return self._skeleton((*roles, "assistant")).prompt_outline

    def stop_token_ids(self) -> list[int]:
        last = self._skeleton(("user", "assistant")).parts[-1].token_id
        return sorted({token for token in (last, self._eos[1]) if token is not None})

    def _encode_items(self, items: Sequence[tuple[str | int, bool]]) -> tuple[np.ndarray, np.ndarray]:
        """The ids of texts and tokens, end to end as uint32, and how many each has."""
        ids_of_texts = iter(self._backend.ids_of([text for text, _ in items if isinstance(text, str)]))
        runs = [next(ids_of_texts) if isinstance(item, str) else np.uint32(item).tobytes() for item, _ in items]
        ids = np.frombuffer(b"".join(runs), np.uint32)
        return ids, np.fromiter(map(len, runs), np.int64, len(runs)) // ids.itemsize

    def _plan(self, example: Example) -> list[tuple[str | int, bool]]:
        """What to tokenise, as (text or token id, trained)."""
        if not example.messages:
            return self._plan_running_text(example.text or "")
        try:
            skeleton = self._skeleton_for(example.messages, tuple(message.role for message in example.messages))
        except UserError as error:
            if not example.source:
                raise
            problems = [Problem(f"{example.source}: {p.what}", p.allowed, p.next_step) for p in error.problems]
            raise UserError(problems, error.exit_code) from error
        return self._fill(skeleton.parts, example.messages)

    def _plan_running_text(self, text: str) -> list[tuple[str | int, bool]]:
        (bos, bos_id), (eos, eos_id) = self._bos, self._eos
        while bos and text.startswith(bos):
            text = text.removeprefix(bos)
        while eos and text.rstrip().endswith(eos):
            text = text.rstrip().removesuffix(eos)
        text = f" {text}" if self._backend.marks_word_start else text
        start = [(bos_id, False)] if bos_id is not None else []
        end = [(eos_id, True)] if eos_id is not None else []
        return [*start, (text, True), *end]

    def _skeleton(self, roles: tuple[str, ...]) -> Skeleton:
        skeleton = self._skeletons.get(roles)
        if skeleton is None:
            if not self._tokenizer.chat_template:
                raise UserError(
                    Problem("the tokenizer has no chat template", next_step="use an instruct model, or `text` rows"),
                    ExitCode.CONFIG,
                )
            skeleton = build_skeleton(self._tokenizer, self._special_tokens, roles)
            self._skeletons[roles] = skeleton
        return skeleton

    def _fill(self, parts: Sequence[Part], messages: Sequence[Message]) -> list[tuple[str | int, bool]]:
        plan: list[tuple[str | int, bool]] = []
        for part in parts:
            if part.token_id is not None:
                plan.append((part.token_id, part.trained))
                continue
            text = "".join(p.fill(messages[p.index].content) if isinstance(p, Slot) else p for p in part.pieces)
            if text:
                plan.append((self._mark_word_start(text, part), part.trained))
        return plan

    def _mark_word_start(self, text: str, part: Part) -> str:
        """Begin a stretch of text as sentencepiece does, with a space, unless the template wrote one already."""
        first = part.pieces[0]
        template_did = isinstance(first, str) and first.startswith(" ")
        return text if not self._backend.marks_word_start or template_did or part.after.isspace() else f" {text}"

    def _skeleton_for(
        self, messages: Sequence[Message], roles: tuple[str, ...], generation_prompt: bool = False
    ) -> Skeleton:
        """The skeleton of these roles, held against what the template really writes: it may look into contents."""
        for _ in range(2):
            skeleton = self._skeleton(roles)
            outline = skeleton.prompt_outline if generation_prompt else skeleton.outline
            expected = "".join(p.fill(messages[p.index].content) if isinstance(p, Slot) else p for p in outline)
            try:
                rendered = render(self._tokenizer, [m.as_dict() for m in messages], generation_prompt)
            except Exception as error:  # a template raises jinja2 errors of its own wording
                what = f"the chat template refuses this conversation: {error}"
                problem = Problem(what, next_step="leave out the turns it does not know, or use another chat template")
                raise UserError(problem, ExitCode.DATA) from error
            if rendered == expected:
                return skeleton
            del self._skeletons[roles]  # once more: the template may write the time of day
        where = _first_difference(rendered, expected)
        raise UserError(
            Problem(
                f"the chat template rewrites the text of this conversation near {where!r}",
                "the text must stay as it is",
                "take out what the template reads as its own markup, or use another chat template",
            ),
            ExitCode.DATA,
        )


def _first_difference(a: str, b: str) -> str:
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return b[max(0, at - 10) : at + 30]
