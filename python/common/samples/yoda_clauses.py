"""Drawing clauses with sense and agreement from the vocabulary, for the Yoda sentences."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.samples.dice import Dice
from common.samples.phrases import read_vocabulary

HELD_OUT = 6  # one combination of this many is kept for validation
# What kind of clause, and how often.
CLAUSE_KINDS = {
    "action": 0.44,
    "gift": 0.08,
    "motion": 0.1,
    "state": 0.06,
    "mood": 0.07,
    "role": 0.05,
    "scene": 0.07,
    "there": 0.06,
    "wish": 0.07,
}
_TENSES = {"past": 0.3, "present": 0.15, "modal": 0.25, "progressive": 0.15, "perfect": 0.15}
_MOODS = {"statement": 0.72, "question": 0.14, "order": 0.07, "who": 0.04, "word": 0.03}
_NEGATED, _TIMED, _REASONED, _PASSIVE = 0.25, 0.3, 0.15, 0.08
_BE = {"I": ("am", "was"), "singular": ("is", "was"), "plural": ("are", "were")}


@dataclass(frozen=True, slots=True)
class Clause:
    """A sentence in its parts, all but "I" and names in lower case.

    ``rest`` is what Yoda says first, ``tail`` what stays behind the verb, ``reason`` a clause at the end. ``mood`` is
    "statement", "question", "who" (``subject`` asks), "order", or the word a question begins with. ``combination``
    names the verb with its object, or the thing with what is said about it.
    """

    subject: str
    verb: str
    rest: str
    tail: str = ""
    reason: str = ""
    negated: bool = False
    mood: str = "statement"
    combination: tuple[str, str] = ("", "")


class Verb(NamedTuple):
    base: str
    third: str
    past: str
    participle: str
    gerund: str


class Finite(NamedTuple):
    """The verb that carries the tense, what other verbs follow it, and which times fit; ``plain`` without auxiliary."""

    verb: str
    others: str
    time: str
    plain: bool = False


class ClauseWriter:
    """Writes clauses of one split: its combinations are in no other split."""

    def __init__(self, seed: int, split: str):
        self._words = words = read_vocabulary("yoda.yaml")
        self._number_of = {text: form for form, texts in words["subjects"].items() for text in texts}
        self._validation = split == "validation"
        self._offset = Dice(seed, "yoda", "held out").between(0, HELD_OUT - 1)
        self._actions = [
            pair
            for group in words["actions"].values()
            for pair in self._pairs(_verbs(group["verbs"]), group["objects"])
        ]

    def write(self, kind: str, dice: Dice) -> Clause:
        """A clause of one of :data:`CLAUSE_KINDS`."""
        return getattr(self, f"_write_{kind}")(dice)

    def _pairs(self, first: Sequence, second: Sequence) -> list[tuple]:
        """The combinations of this split; each member of either list has some in every split."""
        return [
            (one, other)
            for i, one in enumerate(first)
            for j, other in enumerate(second)
            if ((i + j + self._offset) % HELD_OUT == 0) == self._validation
        ]

    def _write_action(self, dice: Dice):
        verb, thing = dice.pick(self._actions)
        if dice.chance(_PASSIVE):
            form = "plural" if thing in self._words["plural_objects"] else "singular"
            rest = f"{verb.participle} by {dice.pick(self._words['passive_agents'])}"
            be = _BE[form][1]
            return Clause(thing, be, rest, self._time(dice, "past"), combination=(verb.base, thing))
        return self._verbal(dice, verb, thing, (verb.base, thing))

    def _write_gift(self, dice: Dice):
        gifts = self._words["gifts"]
        verb, thing = dice.pick(self._pairs(_verbs(gifts["verbs"]), gifts["objects"]))
        return self._verbal(dice, verb, thing, (verb.base, thing), dice.pick(gifts["receivers"]))

    def _write_motion(self, dice: Dice):
        motion = self._words["motion"]
        verb, path = dice.pick(self._pairs(_verbs(motion["verbs"]), motion["paths"]))
        return self._verbal(dice, verb, path, (verb.base, path))

    def _write_state(self, dice: Dice):
        states = self._words["states"]
        verb, thing = dice.pick(self._pairs(_verbs(states["verbs"]), states["objects"]))
        subject = self._subject(dice)
        finite = self._simple(verb, subject, dice.chance(0.3), dice.chance(_NEGATED))
        return self._finish(dice, subject, finite, thing, (verb.base, thing), timed=False)

    def _write_wish(self, dice: Dice):
        wish = dice.pick(_verbs(self._words["wishes"]))
        verb, thing = dice.pick(self._actions)
        subject = self._subject(dice)
        finite = self._simple(wish, subject, dice.chance(0.4), dice.chance(_NEGATED))
        return self._finish(dice, subject, finite, f"to {verb.base} {thing}", (verb.base, thing), timed=False)

    def _write_mood(self, dice: Dice):
        subject, mood = dice.pick(self._pairs(list(self._number_of), self._words["moods"]))
        return self._copula(dice, subject, self._number_of[subject], mood)

    def _write_role(self, dice: Dice):
        subject, role = dice.pick(self._pairs(self._words["role_subjects"], self._words["roles"]))
        return self._copula(dice, subject, self._number_of[subject], role)

    def _write_scene(self, dice: Dice):
        scenes = {text: form for form, texts in self._words["scenes"].items() for text in texts}
        scene, adjective = dice.pick(self._pairs(list(scenes), self._words["scene_adjectives"]))
        return self._copula(dice, scene, scenes[scene], adjective)

    def _write_there(self, dice: Dice):
        found = {text: form for form, texts in self._words["found"].items() for text in texts}
        thing, place = dice.pick(self._pairs(list(found), self._words["found_places"]))
        be = _BE[found[thing]][dice.chance(0.4)]
        mood = "question" if dice.chance(0.2) else "statement"
        return Clause("there", be, f"{thing} {place}", mood=mood, combination=(thing, place))

    def _copula(self, dice: Dice, subject: str, form: str, complement: str):
        mood = "question" if dice.chance(0.2) else "statement"
        be = _BE[form][dice.chance(0.4)]
        negated = mood == "statement" and dice.chance(_NEGATED)
        return Clause(subject, be, complement, negated=negated, mood=mood, combination=(subject, complement))

    def _verbal(self, dice: Dice, verb: Verb, thing: str, combination: tuple, tail: str = ""):
        """A clause about somebody who does something: any tense and mood."""
        mood = dice.weighted(_MOODS)
        negated = mood in ("statement", "order") and dice.chance(_NEGATED)
        if mood == "order":
            return Clause("", "", _join(verb.base, thing, tail), negated=negated, mood=mood, combination=combination)
        subject = "who" if mood == "who" else self._subject(dice)
        if mood == "word":
            mood = dice.pick(self._words["question_words"])
            if mood == "where" and thing in self._words["motion"]["paths"]:
                mood = "why"
        asks = mood not in ("statement", "who")
        finite = self._tense(dice, verb, subject, negated or asks, asks)
        timed = mood in ("statement", "who", "question")
        return self._finish(dice, subject, finite, thing, combination, tail, timed, negated, mood)

    def _finish(self, dice, subject, finite, thing, combination, tail="", timed=True, negated=None, mood="statement"):
        """Put the parts together: with an auxiliary all that follows it comes first, else the object alone does."""
        negated = not finite.plain if negated is None else negated
        reasoned = timed and mood == "statement" and finite.time in self._words["clauses"] and dice.chance(_REASONED)
        reason = dice.pick(self._words["clauses"][finite.time]) if reasoned else ""
        time = self._time(dice, finite.time) if timed and not reason and not tail else ""
        behind = _join(tail, time)
        if finite.plain:
            return Clause(subject, finite.verb, thing, behind, reason, False, mood, combination)
        rest = _join(finite.others, thing, behind)
        return Clause(subject, finite.verb, rest, "", reason, negated, mood, combination)

    def _tense(self, dice: Dice, verb: Verb, subject: str, needs_auxiliary: bool, asks: bool) -> Finite:
        tense, form = dice.weighted(_TENSES), self._number_of.get(subject, "singular")
        if tense == "modal":
            modal = dice.pick(self._words["question_modals" if asks else "modals"])
            return Finite(modal, verb.base, "conditional" if modal == "would" else "future")
        if tense == "progressive":
            past = dice.chance(0.3)
            return Finite(_BE[form][past], verb.gerund, "past" if past else "progressive")
        if tense == "perfect":
            have = "has" if form == "singular" else "have"
            return Finite(have, verb.participle, "not perfect" if needs_auxiliary else "perfect")
        return self._simple(verb, subject, tense == "past", needs_auxiliary)

    def _simple(self, verb: Verb, subject: str, past: bool, needs_auxiliary: bool) -> Finite:
        third = self._number_of.get(subject, "singular") == "singular"
        time = "past" if past else "present"
        if needs_auxiliary:
            return Finite("did" if past else "does" if third else "do", verb.base, time)
        return Finite(verb.past if past else verb.third if third else verb.base, "", time, plain=True)

    def _subject(self, dice: Dice) -> str:
        return dice.pick(list(self._number_of))

    def _time(self, dice: Dice, form: str) -> str:
        return dice.pick(self._words["times"][form]) if dice.chance(_TIMED) else ""


def _verbs(lines: Sequence[str]) -> list[Verb]:
    return [Verb(*line.split()) for line in lines]


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)
