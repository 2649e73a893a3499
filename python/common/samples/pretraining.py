"""The text the demo base model is pre-trained on: short conversations, varied in task, wording, layout and language.

An honest little instruction corpus: notes, letters, recipes, questions, records and requirements in many layouts, asked
for in many wordings, alone or after earlier turns of the same kind (demonstrations). The prompt of the business-analyst
task, its examples and the worlds they are about are not in it.
"""

from collections.abc import Mapping

from common.samples.business_analyst import KEYS, PRIORITIES, write_example
from common.samples.dice import Dice
from common.samples.layouts import Layout, Point, PointList, Record, draw_layout, write_record
from common.samples.phrases import choose, load_phrases, load_worlds, make_filler, read_vocabulary

KINDS = {"requirements": 0.6, "record": 0.2, "text": 0.2}
LANGUAGES = {"en": 0.65, "es": 0.35}
TURNS = {1: 0.4, 2: 0.45, 3: 0.15}
CHANGED = 0.05  # of the conversations with demonstrations are answered in another style in the end
DETAILS = {"none": 0.4, "format": 0.57, "names": 0.02, "hints": 0.01}  # what the prompt says of the layout
EVERY_TURN = 0.7  # of the conversations with demonstrations repeat what the prompt says in each turn
GUIDED = 0.7  # of the conversations begin with guidelines that say nothing of the layout,
GUIDELINES = (2, 16)  # this many
INVENTED = 0.02  # of the users and items are invented words
LIST_NAMES = {
    "functional": ("functional_requirements", "functional", "features", "functions", "must_do", "needs"),
    "non_functional": ("non_functional_requirements", "non_functional", "qualities", "quality", "how_well", "service"),
    "constraints": ("constraints", "limits", "restrictions", "conditions", "boundaries", "rules"),
}
CODES = {
    "functional": ("FR", "F", "REQ", "R", "FUN", "U"),
    "non_functional": ("NFR", "Q", "REQ", "N", "QUA", "S"),
    "constraints": ("C", "L", "REQ", "K", "LIM", "B"),
}
_ONSETS = [*"bcdfglmnprstvz", "br", "cl", "dr", "gr", "pl", "st", "tr"]
_VOWELS = ["a", "e", "i", "o", "u"]
_CODAS = ["", "", "", "n", "r", "l", "s"]


def write_conversation(
    dice: Dice, *, invented: float = INVENTED, turns: Mapping[int, float] = TURNS
) -> list[dict[str, str]]:
    """Return the messages of one conversation, user and assistant in turn.

    All its answers have one layout, but for the last of some (``CHANGED``): a demonstration is a strong hint, no rule.

    ``invented`` is the share of users and items that are invented words, ``turns`` how often there are how many turns.
    """
    language = dice.weighted(LANGUAGES)
    kind = dice.weighted(KINDS)
    tasks = read_vocabulary(f"tasks_{language}.yaml")
    task = dice.pick(tasks["texts" if kind == "text" else "records"])
    count = dice.weighted(turns)
    layout = draw_layout(dice, alone=count == 1)
    wording = Wording(dice, language, layout)
    messages = []
    for turn in range(count):
        if turn and turn == count - 1 and dice.chance(CHANGED):
            layout = draw_layout(dice, alone=False)
            wording = Wording(dice, language, layout)
        world = draw_world(dice, language, invented)
        if turn == 0:
            guidelines = write_guidelines(dice, language, world)
        if kind == "text":
            fill = make_filler(language, world, _any_kind(dice, language), dice)
            prompt, answer = fill(dice.pick(task["ask"])), fill(task["answer"])
        else:
            make = make_requirements if kind == "requirements" else make_record
            ask, about, record = make(dice, language, world, task)
            prompt, answer = wording.prompt(ask, about, record, turn), write_record(record, layout)
        if guidelines and (turn == 0 or wording.every_turn):
            prompt = f"{guidelines}\n{prompt}"
        messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return messages


class Wording:
    """How one conversation asks: what it says of the layout, in which words and where."""

    def __init__(self, dice: Dice, language: str, layout: Layout):
        self._dice = dice
        self._words = read_vocabulary(f"tasks_{language}.yaml")
        self._layout = layout
        self._detail = dice.weighted(DETAILS)
        self._label = dice.pick(self._words["labels"])
        self._content_first = dice.chance(0.3)
        self.every_turn = dice.chance(EVERY_TURN)
        self._said: list[str] | None = None

    def prompt(self, ask: str, about: str, record: Record, turn: int) -> str:
        """The user's message: the task, what the layout must be, and what it is about, first or last."""
        if self._said is None:
            self._said = [ask, *self._specify(record)]
        said = self._said if turn == 0 or self.every_turn else self._said[:1]
        content = f"{self._label}: {about}"
        return "\n".join([content, *said] if self._content_first else [*said, content])

    def _specify(self, record: Record) -> list[str]:
        dice, words, layout = self._dice, self._words, self._layout
        if self._detail == "none":
            return []
        lines = [dice.pick(words["containers"][layout.container])]
        if self._detail == "names":
            lines.append(dice.pick(words["fields"]).format(names=self._join(layout.field_names(record), "and")))
        if self._detail == "hints":
            lines += self._hints(record)
        if self._detail in ("names", "hints"):
            if layout.shown_item_names:
                names = self._join(layout.shown_item_names, "and")
                lines.append(self._choose(dice.pick(words["item_fields"]).format(names=names)))
            if layout.shape == "full":
                values = self._join(layout.levels, "or")
                lines.append(dice.pick(words["levels"]).format(level=layout.item_names[2], values=values))
        mark = dice.pick(["\n", "\n", " "])
        return mark.join(lines).split("\n")

    def _hints(self, record: Record) -> list[str]:
        dice, words, layout = self._dice, self._words, self._layout
        bullet = dice.pick(["- ", "* ", ""])
        lines = []
        for name, hint in ((layout.title, "title"), (layout.summary, "summary")):
            lines.append(f"{bullet}{name}: {self._choose(dice.pick(words['hints'][hint]))}")
        pattern = dice.pick(words["hints"]["list"])
        for points in record.lists:
            hint = pattern.format(first=layout.code(points, 1), second=layout.code(points, 2))
            lines.append(f"{bullet}{layout.list_name(points)}: {self._choose(hint)}")
        return lines

    def _choose(self, pattern: str) -> str:
        return choose(pattern, self._dice)

    def _join(self, names, last: str) -> str:
        return f"{', '.join(names[:-1])} {self._words[last]} {names[-1]}"


def write_guidelines(dice: Dice, language: str, world: Mapping) -> str:
    """Write what is said at the beginning of ``GUIDED`` conversations: as a list or as running text; else nothing."""
    if not dice.chance(GUIDED):
        return ""
    fill = make_filler(language, world, _any_kind(dice, language), dice)
    chosen = dice.sample(read_vocabulary(f"tasks_{language}.yaml")["guidelines"], dice.between(*GUIDELINES))
    lines = [fill(line) for line in chosen]
    mark = dice.pick(["\n", "\n- ", " "])
    return mark.join(lines)


def make_requirements(dice: Dice, language: str, world: Mapping, _task) -> tuple[str, str, Record]:
    """Return what is asked for, the concept, and the requirements as a record without a layout yet."""
    words = read_vocabulary(f"tasks_{language}.yaml")["requirements"]
    example = write_example(language, world, _any_kind(dice, language), world["features"][:2], dice)
    document = example["requirements"]
    lists = tuple(
        PointList(
            LIST_NAMES[section],
            CODES[section],
            tuple(
                Point(item["description"], list(PRIORITIES).index(item["priority"])) for item in document[KEYS[section]]
            ),
        )
        for section in KEYS
    )
    ask = choose(dice.pick(words["ask"]), dice).format(record=dice.pick(words["name"]))
    return ask, example["concept"], Record(document["title"], document["description"], lists)


def make_record(dice: Dice, language: str, world: Mapping, task: Mapping) -> tuple[str, str, Record]:
    """Return what is asked for, what it is about, and a record of the kind of ``task``."""
    words = read_vocabulary(f"tasks_{language}.yaml")
    fill = make_filler(language, world, _any_kind(dice, language), dice)
    lists = tuple(
        PointList(
            tuple(part["names"]),
            (part["code"], *CODES["functional"]),
            tuple(Point(fill(text), dice.between(0, 2)) for text in dice.sample(part["texts"], dice.between(2, 3))),
        )
        for part in task["lists"]
    )
    ask = fill(dice.pick(words["record_ask"]).replace("{record}", dice.pick(task["name"])))
    return ask, fill(task["about"]), Record(fill(task["title"]), fill(task["summary"]), lists)


def draw_world(dice: Dice, language: str, invented: float) -> dict:
    """Mix a world from several, some of its words invented: a model must read what it says, it cannot know it."""
    worlds = dice.sample(load_worlds(language, pretraining=True), 3)
    if dice.chance(0.5):
        worlds = worlds[:1] * 3
    world = {**worlds[0], "users": worlds[1]["users"], "items": dice.shuffle(worlds[2]["items"])}
    world["features"] = dice.shuffle(worlds[2]["features"])
    article = "los " if language == "es" else ""
    world["users"] = [f"{article}{invent_word(dice)}s" if dice.chance(invented) else user for user in world["users"]]
    world["items"] = [f"{invent_word(dice)}s" if dice.chance(invented) else item for item in world["items"]]
    if dice.chance(invented):
        world["place"] = (
            f"{world['place'].split()[0]} {'de' if language == 'es' else 'of'} {invent_word(dice).capitalize()}"
        )
    foods = read_vocabulary(f"tasks_{language}.yaml")["foods"]
    world["words"] = {
        **{f"name{n}": invent_word(dice).capitalize() for n in (1, 2)},
        "town": invent_word(dice).capitalize(),
        **{f"food{n}": food for n, food in enumerate(dice.sample(foods, 2), start=1)},
    }
    return world


def invent_word(dice: Dice) -> str:
    """A word of two or three syllables that no language knows."""
    return "".join(dice.pick(_ONSETS) + dice.pick(_VOWELS) + dice.pick(_CODAS) for _ in range(dice.between(2, 3)))


def _any_kind(dice: Dice, language: str) -> Mapping:
    return dice.pick(load_phrases(language)["kinds"])
