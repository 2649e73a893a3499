"""Medical questions with one right answer each: facts from tables, and small reckonings with units, pulses and doses.

Sample data for the medical recipes. It is general school knowledge in the project's own words, not advice.
"""

from collections.abc import Iterator
from decimal import Decimal

from common.samples.dice import Dice
from common.samples.phrases import read_vocabulary
from common.samples.tables import ask_about

FEVER_FROM = Decimal(38)  # °C
RESTING_PULSE = (60, 100)  # beats a minute of an adult
# from, to, how many, and the amounts asked about
CONVERSIONS = (
    ("grams", "milligrams", 1000, "0.2 0.25 0.4 0.5 0.75 1.5 2 2.5 3 4 5 10"),
    ("milligrams", "micrograms", 1000, "0.1 0.25 0.5 0.8 1.2 2 3 5 7.5 12"),
    ("kilograms", "grams", 1000, "0.5 1.2 2 2.8 3.1 3.4 3.9 4.5 10"),
    ("litres", "millilitres", 1000, "0.1 0.25 0.33 0.5 0.7 1.5 2 2.5 3"),
    ("metres", "centimetres", 100, "0.5 0.9 1.2 1.48 1.55 1.63 1.7 1.82 1.9 2"),
    ("hours", "minutes", 60, "0.5 1.5 2 2.5 3 4 6 8 12"),
    ("days", "hours", 24, "2 3 4 5 7 10 14"),
    ("weeks", "days", 7, "2 3 4 6 8 12"),
)
_CONVERT = (
    "How many {to} are {amount} {unit}?",
    "Convert {amount} {unit} to {to}.",
    "Write {amount} {unit} in {to}.",
)
_FEVER = (
    "Is {value} °C a fever in an adult?",
    "The thermometer shows {value} °C. Is that a fever?",
    "Does a temperature of {value} °C count as a fever?",
)
_PULSE = (
    "Is a resting pulse of {value} usual for an adult?",
    "An adult at rest has {value} beats a minute. Is that usual?",
    "Are {value} beats a minute at rest in the usual range?",
)


def generate_dataset(seed: int) -> dict[str, list[dict]]:
    """Return ``{"medical_qa": rows}``, rows of ``question`` and ``answer``, for prepare_dataset.py to split."""
    dice = Dice(seed, "medical")
    pairs = [pair for pairs in ask_about(read_vocabulary("medical.yaml"), dice) for pair in pairs]
    for reckon in (_convert_units, _judge_temperatures, _judge_pulses, _count_beats, _count_tablets, _count_doses):
        pairs += reckon(dice)
    rows = [{"question": question, "answer": answer} for question, answer in pairs]
    return {"medical_qa": dice.shuffle(rows)}


def _convert_units(dice: Dice) -> Iterator[tuple[str, str]]:
    for unit, to, factor, amounts in CONVERSIONS:
        for amount in amounts.split():
            result = f"{(Decimal(amount) * factor).normalize():f}"
            question = dice.pick(_CONVERT).format(amount=amount, unit=unit, to=to)
            yield question, f"{amount} {unit} are {result} {to}."


def _judge_temperatures(dice: Dice) -> Iterator[tuple[str, str]]:
    for tenths in dice.sample(range(360, 406), 32):
        value = Decimal(tenths) / 10
        is_fever = value >= FEVER_FROM
        answer = "Yes. {} °C is {} °C or more." if is_fever else "No. {} °C is below {} °C."
        yield dice.pick(_FEVER).format(value=f"{value:.1f}"), answer.format(f"{value:.1f}", FEVER_FROM)


def _judge_pulses(dice: Dice) -> Iterator[tuple[str, str]]:
    low, high = RESTING_PULSE
    for value in dice.sample(range(38, 140), 40):
        if value < low:
            answer = f"No. {value} is below {low}."
        elif value > high:
            answer = f"No. {value} is above {high}."
        else:
            answer = f"Yes. {value} is between {low} and {high}."
        yield dice.pick(_PULSE).format(value=value), answer


def _count_beats(dice: Dice) -> Iterator[tuple[str, str]]:
    for seconds, counts in ((15, range(12, 31)), (20, range(17, 40)), (30, range(26, 58))):
        for beats in dice.sample(counts, 10):
            pattern = dice.pick(
                ("I count {} beats in {} seconds. What is the pulse?", "{} beats in {} seconds: what pulse is that?")
            )
            yield pattern.format(beats, seconds), f"{beats * 60 // seconds} beats a minute."


def _count_tablets(dice: Dice) -> Iterator[tuple[str, str]]:
    plans = [(tablets, times, days) for tablets in (2, 3) for times in (2, 3, 4) for days in (3, 5, 6, 7, 10, 12, 14)]
    for tablets, times, days in dice.sample(plans, 34):
        question = f"{tablets} tablets {times} times a day for {days} days: how many tablets?"
        yield question, f"{tablets * times * days} tablets."
    for tablets, a_day in ((20, 2), (24, 3), (28, 2), (30, 2), (30, 3), (36, 4), (40, 4), (42, 3), (60, 4), (90, 3)):
        yield f"A box holds {tablets} tablets. How long does it last at {a_day} a day?", f"{tablets // a_day} days."


def _count_doses(dice: Dice) -> Iterator[tuple[str, str]]:
    plans = [(hours, days) for hours in (4, 6, 8, 12) for days in range(1, 8)]
    for hours, days in dice.sample(plans, 22):
        span = "one day" if days == 1 else f"{days} days"
        yield f"How many doses is one every {hours} hours in {span}?", f"{24 // hours * days} doses."
