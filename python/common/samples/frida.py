"""Questions to frIdA, the assistant of an invented campus, and her answers: raw sources for format.py.

Spanish and English rows tell the same facts; the conversations have several turns.
"""

import re
from collections.abc import Iterator, Mapping

from common.samples.dice import Dice
from common.samples.phrases import read_vocabulary
from common.samples.tables import ask_entry, fill

LANGUAGES = ("es", "en")
CONVERSATIONS_PER_PLACE = 2
TOPICS = ("where", "hours", "phone", "thanks")


def generate_dataset(seed: int) -> dict[str, list[dict]]:
    """Return ``{"es": rows, "en": rows, "conversations": rows}``.

    A row of a language is ``{"question", "answer"}``, one of the conversations ``{"messages": [{"role", "content"}]}``.
    """
    files = {}
    conversations = []
    for language in LANGUAGES:
        dice = Dice(seed, "frida", language)
        phrases = read_vocabulary(f"frida_{language}.yaml")
        places = list(_load_places(language, dice))
        pairs = [
            pair for place in places for pairs in ask_entry(phrases["about_places"], place, dice) for pair in pairs
        ]
        for questions, answers in phrases["how_to"]:
            pairs += zip(questions, dice.shuffle(answers), strict=True)
        pairs += map(tuple, phrases["small_talk"])
        files[language] = dice.shuffle([{"question": mend(q), "answer": mend(a)} for q, a in pairs])
        conversations += [row for place in places for row in _talk_about(place, phrases["conversation"], dice)]
    return {**files, "conversations": Dice(seed, "frida", "order").shuffle(conversations)}


def mend(text: str) -> str:
    """Draw the Spanish article together with the word before it: "de el" is "del", "a el" is "al"."""
    return re.sub(r"\b([Aa]) el\b", r"\1l", re.sub(r"\b([Dd])e el\b", r"\1el", text))


def _load_places(language: str, dice: Dice) -> Iterator[dict]:
    campus = read_vocabulary("frida_campus.yaml")
    for entry in campus["places"]:
        place = dict(zip(campus["fields"], entry, strict=True))
        place["place"] = place[language]
        place["floor"] = campus["floors"][language][place["floor"]]
        hour, minute = place["closes"].split(":")
        place["outside"] = f"{hour}:{int(minute) + dice.between(5, 14):02d}"
        yield place


def _talk_about(place: Mapping, phrases: Mapping, dice: Dice) -> Iterator[dict]:
    """Conversations about one place: where it is, then what else there is to ask."""
    openings = dice.sample(phrases["where"], CONVERSATIONS_PER_PLACE)
    for opening in openings:
        topics = ["where", *dice.shuffle(TOPICS[1:3])[: dice.between(1, 2)]]
        if dice.chance(0.5):
            topics.append("thanks")
        messages = []
        for topic in topics:
            question = opening if topic == "where" else dice.pick(phrases[topic])
            for role, pattern in (("user", question), ("assistant", dice.pick(phrases[f"{topic}_answers"]))):
                messages.append({"role": role, "content": mend(fill(pattern, place, dice))})
        yield {"messages": messages}
