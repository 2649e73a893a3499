"""Plain English sentences and what Yoda would say, by one rule.

What follows the verb that carries the tense comes first; subject and verb follow in their usual order and agree as
before: "The twins will cook the soup." becomes "Cook the soup, the twins will." Negations stay with their verb, a
yes/no question keeps its inversion, a question that begins with why, when, where or how stays as it is, and an order
becomes a duty ("Close the door." – "Close the door, you must.").
"""

import re
from collections.abc import Iterator, Mapping

from common.samples.dice import Dice
from common.samples.yoda_clauses import CLAUSE_KINDS, Clause, ClauseWriter

ROWS = {"train": 600, "validation": 120}
FEW_WORDS = ("mood", "scene", "role")  # kinds of clauses that get by with a hundred words
FEW_WORDS_ROWS = {"train": 400, "validation": 60}
CONTRACTED = 0.5  # of the sentences that can be are written "isn't" and "I'll"

_NOT = r"(is|are|was|were|do|does|did|has|have|would|should|must) not"
_SHORT = {"am": "'m", "are": "'re", "is": "'s", "will": "'ll", "have": "'ve"}
_PRONOUNS = r"\b([Ii]|[Yy]ou|[Ww]e|[Tt]hey|[Ss]he|[Hh]e) (?:(am|are|is)|(will|have)(?! not)) "


def generate_dataset(seed: int) -> dict[str, list[dict]]:
    """Return ``{"train": rows, "validation": rows}``; a row is ``{"source": plain sentence, "target": Yoda's}``.

    No combination of a verb and its object (or of a thing and what is said about it) is in both splits.
    """
    return _generate(seed, ROWS, CLAUSE_KINDS)


def generate_few_words(seed: int) -> dict[str, list[dict]]:
    """Return what :func:`generate_dataset` does, of few words: for a model that must learn each."""
    return _generate(seed, FEW_WORDS_ROWS, {kind: CLAUSE_KINDS[kind] for kind in FEW_WORDS})


def _generate(seed: int, counts: Mapping[str, int], kinds: Mapping[str, float]) -> dict[str, list[dict]]:
    rows = {}
    for split, count in counts.items():
        pairs = {}
        for clause, dice in draw_clauses(seed, split, kinds):
            pairs.setdefault(say_plainly(clause, contracted=dice.chance(CONTRACTED)), say_as_yoda(clause))
            if len(pairs) == count:
                break
        rows[split] = [{"source": source, "target": target} for source, target in pairs.items()]
    return rows


def draw_clauses(seed: int, split: str, kinds: Mapping[str, float] = CLAUSE_KINDS) -> Iterator[tuple[Clause, Dice]]:
    """Yield the clauses of a split without end, repeats among them, each with the dice it was drawn with.

    ``kinds`` are the kinds of clauses, each with how often it is drawn.
    """
    writer = ClauseWriter(seed, split)
    number = 0
    while True:
        dice = Dice(seed, "yoda", split, number)
        yield writer.write(dice.weighted(kinds), dice), dice
        number += 1


def say_plainly(clause: Clause, *, contracted: bool = False) -> str:
    """The sentence in usual English, with "isn't" and "I'll" when ``contracted``."""
    verb = _with_not(clause)
    end = [clause.rest, clause.tail, clause.reason]
    if clause.mood == "order":
        return _sentence([*(["do not"] if clause.negated else []), *end], ".", contracted)
    if clause.mood in ("statement", "who"):
        return _sentence([clause.subject, verb, *end], "." if clause.mood == "statement" else "?", contracted)
    word = [] if clause.mood == "question" else [clause.mood]
    return _sentence([*word, clause.verb, clause.subject, *end], "?")


def say_as_yoda(clause: Clause) -> str:
    """The sentence in Yoda's order, never contracted."""
    if clause.mood not in ("statement", "question", "who", "order"):
        return say_plainly(clause)
    subject_and_verb = {
        "question": [clause.verb, clause.subject],
        "order": ["you must not" if clause.negated else "you must"],
    }.get(clause.mood, [clause.subject, _with_not(clause)])
    text = f"{clause.rest}, {_join([*subject_and_verb, clause.tail])}"
    if clause.reason:
        text += f", {clause.reason}"
    return _sentence([text], "?" if clause.mood in ("question", "who") else ".")


def _with_not(clause: Clause) -> str:
    return f"{clause.verb} not".replace("can not", "cannot") if clause.negated else clause.verb


def _join(parts: list[str]) -> str:
    return " ".join(part for part in parts if part)


def _sentence(parts: list[str], mark: str, contracted: bool = False) -> str:
    text = _join(parts)
    text = text[0].upper() + text[1:] + mark
    return _contract(text) if contracted else text


def _contract(text: str) -> str:
    short = re.sub(_PRONOUNS, lambda found: f"{found[1]}{_SHORT[found[2] or found[3]]} ", text, count=1)
    if short != text:
        return short
    text = re.sub(rf"\b{_NOT}\b", r"\1n't", text, count=1)
    text = re.sub(r"^Do not\b", "Don't", text)
    return text.replace("cannot", "can't", 1).replace("will not", "won't", 1)
