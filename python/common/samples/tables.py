"""Questions and answers from tables of facts: each fact is asked in several ways.

A table of the vocabulary has ``fields`` (names of the columns), ``entries`` (the facts, a list each) and ``ask``: a
list of ``questions`` (patterns), ``answers`` (patterns; one for all, or several to vary) and ``times``, how many of the
questions each fact gets.
"""

from collections.abc import Iterator, Mapping, Sequence

from common.samples.dice import Dice
from common.samples.phrases import choose


def ask_about(tables: Sequence[Mapping], dice: Dice) -> Iterator[list[tuple[str, str]]]:
    """Yield, fact by fact, the (question, answer) pairs about it: they ask the same in different words."""
    for table in tables:
        for entry in table["entries"]:
            yield from ask_entry(table["ask"], dict(zip(table["fields"], entry, strict=True)), dice)


def ask_entry(ask: Sequence[Mapping], fact: Mapping[str, str], dice: Dice) -> Iterator[list[tuple[str, str]]]:
    """Yield for each kind of question in ``ask`` its (question, answer) pairs about one fact."""
    for kind in ask:
        questions = dice.sample(kind["questions"], kind["times"])
        answers = dice.shuffle(kind["answers"])
        yield [
            (fill(question, fact, dice), fill(answers[number % len(answers)], fact, dice))
            for number, question in enumerate(questions)
        ]


def fill(pattern: str, fact: Mapping[str, object], dice: Dice) -> str:
    """Fill a pattern, choosing one of each ``[a|b]`` and beginning with a capital letter (after ¿ and ¡ too)."""
    return capitalise(choose(pattern, dice).format(**fact))


def capitalise(text: str) -> str:
    start = next((at for at, sign in enumerate(text) if sign not in "¿¡"), 0)
    return text[:start] + text[start : start + 1].upper() + text[start + 1 :]
