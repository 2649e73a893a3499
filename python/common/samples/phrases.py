"""The generators' vocabulary (``vocabulary/*.yaml``), and filling its sentence patterns with words."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import yaml

from common.samples.dice import Dice

_FOLDER = Path(__file__).parent / "vocabulary"
_SMALL_WORDS = {"in", "of", "the", "on", "for", "de", "en", "los", "las"}


@cache
def read_vocabulary(name: str):
    """Read one file of the vocabulary; callers must not change what they get."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((_FOLDER / name).read_text(encoding="utf-8"), Loader=loader)


def load_worlds(language: str, *, pretraining: bool = False) -> list[dict]:
    """The worlds of a language: those of the data sets, or those the demo base model is pre-trained on."""
    return read_vocabulary(f"pretraining_{language}.yaml" if pretraining else f"{language}.yaml")


def load_phrases(language: str) -> dict:
    """The sentence patterns of concepts and requirements in a language."""
    return read_vocabulary(f"phrases_{language}.yaml")


def choose(pattern: str, dice: Dice) -> str:
    """Replace every ``[a|b|c]`` of ``pattern`` by one of its parts."""
    return re.sub(r"\[([^]]*)\]", lambda match: dice.pick(match[1].split("|")), pattern)


def make_filler(language: str, world: Mapping, kind: Mapping, dice: Dice) -> Callable[[str], str]:
    """Return a function that fills a pattern with the words of this world and kind of software.

    A world may bring further words under ``words``; a field that begins with a capital is the word so written.
    """
    words = {
        "place": world["place"],
        "short": world["short"],
        "kind": kind["name"],
        "a_kind": kind["a"],
        "kind_title": kind["title"],
        **{f"user{n}": user for n, user in enumerate(world["users"], start=1)},
        **{f"item{n}": item for n, item in enumerate(world["items"], start=1)},
        **{f"feature{n}": feature for n, feature in enumerate(world["features"], start=1)},
        **world.get("words", {}),
    }
    words |= {name[0].upper() + name[1:]: text[0].upper() + text[1:] for name, text in words.items()}
    words |= {name: title_case(text) for name, text in words.items() if name.startswith("Item")}

    def fill(pattern: str) -> str:
        text = choose(pattern, dice).format(**words)
        return re.sub(r"\by (?=h?i(?!e))", "e ", text) if language == "es" else text

    return fill


def title_case(words: str) -> str:
    """Write ``words`` as in an English title: "Loans of the Day"."""
    return " ".join(word if word in _SMALL_WORDS else word[0].upper() + word[1:] for word in words.split())
