"""What a chat template writes between the turns of a conversation, so that another template language can write it too.

Nothing is translated. The encoder's own outline of short conversations is taken apart, and what stands between two
turns is kept by their two roles. Longer conversations are then put together from that and held against the outline: a
template whose text depends on more than that, on the number of turns for one, is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from common.chat import ChatEncoder, encode_prompt, encoder_for
from common.chat.skeleton import Slot, render
from common.errors import ExitCode, Problem, UserError

START, END = "start", "end"  # beside the roles: before the first turn, and where the next answer begins
_LEARNED = (("user",), ("user", "assistant", "user"))
_WITH_SYSTEM = (("system", "user"), ("system", "user", "assistant", "user"))
_CHECKED = (("user", "assistant") * 3 + ("user",),)
_CHECKED_WITH_SYSTEM = (("system", *("user", "assistant") * 3, "user"),)


@dataclass(frozen=True)
class Turns:
    """``between`` maps (role before, role after) to text; ``starts_with_bos`` tells whether a BOS comes before it all.

    The text of the BOS is not in ``between``: servers write it themselves. ``strips`` holds the roles whose contents
    lose white space at their ends.
    """

    between: Mapping[tuple[str, str], str]
    starts_with_bos: bool
    strips: frozenset[str]

    @property
    def knows_system(self) -> bool:
        return (START, "system") in self.between


def learn_turns(tokenizer) -> Turns:
    """Learn the turns of the tokenizer's chat template. Raises UserError (78) when no such table can say them."""
    encoder = encoder_for(tokenizer)
    between: dict[tuple[str, str], str] = {}
    strips: set[str] = set()
    bos = tokenizer.bos_token or ""
    starts_with_bos = bool(bos) and _split(encoder, ("user",), strips)[0].startswith(bos)
    learned, checked = _LEARNED, _CHECKED
    if _takes_system(encoder):
        learned, checked = learned + _WITH_SYSTEM, checked + _CHECKED_WITH_SYSTEM
    for roles in learned + checked:
        texts = _split(encoder, roles, strips)
        if starts_with_bos:
            texts[0] = texts[0].removeprefix(bos)
        for pair, text in zip(_pairs(roles), texts, strict=True):
            if between.setdefault(pair, text) != text:
                what = f"the chat template writes {text!r} or {between[pair]!r} between {' and '.join(pair)}"
                raise UserError(Problem(what, "always the same text between two roles"), ExitCode.CONFIG)
    return Turns(between, starts_with_bos, frozenset(strips))


def token_note(tokenizer) -> str:
    """What happens to tokens where a server renders the chat template and tokenises the whole text; "" for nothing.

    Training encodes each answer by itself. The two may part where the template's text and an answer's meet.
    """
    question, answer = {"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "title: A day"}
    first, later = (_is_tokenised_alike(tokenizer, chat) for chat in ([question], [question, answer, question]))
    if first and later:
        return ""
    which = "answers of earlier turns" if first else "a conversation"
    return (
        f"A server that tokenises the whole text gets other tokens for {which} than training had, where the chat "
        "template's text meets theirs (a space before an answer, say)"
        + ("; a first question is the same." if first else ".")
    )


def _is_tokenised_alike(tokenizer, chat: list[dict]) -> bool:
    text = render(tokenizer, chat, generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"] == encode_prompt(tokenizer, chat)


def _takes_system(encoder: ChatEncoder) -> bool:
    try:
        encoder.prompt_outline(("system", "user"))
    except UserError:
        return False
    return True


def _pairs(roles: Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip((START, *roles), (*roles, END), strict=True)


def _split(encoder: ChatEncoder, roles: Sequence[str], strips: set[str]) -> list[str]:
    """Return the texts before, between and after the contents; note in ``strips`` whose contents are stripped."""
    texts = [""]
    for piece in encoder.prompt_outline(roles):
        if isinstance(piece, Slot):
            texts.append("")
            if "space" in (piece.strip_left, piece.strip_right):
                strips.add(roles[piece.index])
        else:
            texts[-1] += piece
    return texts
