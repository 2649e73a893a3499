"""Synthetic business-analyst examples: a software concept in, a requirements document about it out.

Everything is made of the project's own sentences (``vocabulary/``), drawn by a seed: the same seed gives the same bytes
on every platform. A document is about its concept: place, users, items and a named quality ("offline use") of the
concept come back in it.
"""

from collections.abc import Mapping, Sequence

from common.data.business_analyst_rows import ID_PREFIXES
from common.samples.dice import Dice
from common.samples.phrases import load_phrases, load_worlds, make_filler

TRAIN_ROWS, VALIDATION_ROWS = 98, 22
CONCEPTS_PER_WORLD = 2
VALIDATION_WORLDS = {"en": 7, "es": 4}
LANGUAGES = tuple(VALIDATION_WORLDS)

ITEM_COUNTS = {  # how many entries a section has, and how often
    "functional": {2: 0.4, 3: 0.4, 4: 0.15, 5: 0.05},
    "non_functional": {2: 0.75, 3: 0.2, 4: 0.05},
    "constraints": {2: 0.8, 3: 0.2},
}
PURPOSE = 0.4  # of the descriptions say in a second sentence what it is good for
PRIORITIES = {"High": 0.45, "Medium": 0.35, "Low": 0.2}
KEYS = {
    "functional": "functional_requirements",
    "non_functional": "non_functional_requirements",
    "constraints": "constraints",
}


def generate_dataset(seed: int) -> dict[str, list[dict]]:
    """Return ``{"train": rows, "validation": rows}``; a row is ``{"concept": text, "requirements": document}``.

    The worlds are dealt to the two splits first, so that no validation concept is about a world seen in training;
    what the splits share is the sentence patterns.
    """
    rows = {"train": [], "validation": []}
    for language, held_out in VALIDATION_WORLDS.items():
        worlds = Dice(seed, "worlds", language).shuffle(load_worlds(language))
        for index, world in enumerate(worlds):
            split = "validation" if index < held_out else "train"
            rows[split] += write_examples(language, world, Dice(seed, "examples", language, world["place"]))
    return {split: Dice(seed, "order", split).shuffle(split_rows) for split, split_rows in rows.items()}


def write_examples(language: str, world: Mapping, dice: Dice, count: int = CONCEPTS_PER_WORLD) -> list[dict]:
    """Write ``count`` examples about one world, with different kinds of software and different leading items."""
    phrases = load_phrases(language)
    kinds = dice.sample(phrases["kinds"], count)
    items = dice.shuffle(world["items"])
    features = dice.shuffle(world["features"])
    share = max(1, len(features) // count)
    return [
        write_example(
            language,
            {**world, "items": items[i % len(items) :] + items[: i % len(items)]},
            kinds[i % len(kinds)],
            features[i * share : (i + 1) * share] or features,
            dice,
        )
        for i in range(count)
    ]


def write_example(language: str, world: Mapping, kind: Mapping, features: Sequence[str], dice: Dice) -> dict:
    """Write one concept and its document; the first two items of ``world`` and all ``features`` belong to it."""
    phrases = load_phrases(language)
    fill = make_filler(language, world, kind, dice)
    concept = fill(dice.pick(phrases["concept"]))
    wanted: dict[str, list[str]] = {"functional": [], "non_functional": [], "constraints": [world["rule"]]}
    if dice.chance(0.5):
        quality = dice.pick(phrases["qualities"])
        concept = phrases["concept_quality"].format(concept=concept, quality=quality["phrase"])
        wanted[quality["section"]].append(fill(quality["text"]))
    wanted["functional"] += [fill(phrases["functional"][0]), *features]

    document = {
        "title": fill(dice.pick(phrases["title"])),
        "description": fill(dice.pick(phrases["description"])),
    }
    if dice.chance(PURPOSE):
        document["description"] += " " + fill(dice.pick(phrases["purpose"]))
    for section, counts in ITEM_COUNTS.items():
        count = dice.weighted(counts)
        patterns = phrases[section][1:] if section == "functional" else phrases[section]
        texts = wanted[section] + [fill(pattern) for pattern in dice.shuffle(patterns)]
        document[KEYS[section]] = [
            {
                "id": f"{ID_PREFIXES[KEYS[section]]}{number:03d}",
                "description": text,
                "priority": dice.weighted(PRIORITIES),
            }
            for number, text in enumerate(dice.shuffle(texts[:count]), start=1)
        ]
    return {"concept": concept, "requirements": document}
