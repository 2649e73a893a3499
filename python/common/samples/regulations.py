"""Questions about the regulations of an invented university, in Spanish, as rows in Llama-3's template.

Facts of an article are asked in several ways, of which the test set has one that training has not; cases (a grade, a
number of credits) have other numbers there.
"""

from collections.abc import Iterator, Mapping

from common.samples.dice import Dice
from common.samples.phrases import read_vocabulary
from common.samples.tables import fill

TEST_SHARE = 0.2
PASS_TENTHS, GRANT_TENTHS = 60, 85  # grades in tenths
ATTENDANCE_PERCENT = 75
CREDITS = (18, 36)  # of a semester
INTERNSHIP_HOURS = 240

Pair = tuple[str, str]


def generate_dataset(seed: int) -> dict[str, list[dict]]:
    """Return the rows of ``train_v3_combined_split`` and ``test_v3_combined_split``; a row is ``{"text": …}``."""
    vocabulary = read_vocabulary("regulations.yaml")
    train, test = [], []
    dice = Dice(seed, "regulations", "facts")
    for fact in vocabulary["facts"]:
        pairs = [(question, fact["answer"]) for question in dice.shuffle(fact["questions"])]
        train += pairs[:-1]
        test += pairs[-1:]
    for kind, write in _CASES.items():
        dice = Dice(seed, "regulations", kind)
        pairs = dice.shuffle(list(write(vocabulary["cases"][kind], vocabulary["subjects"], dice)))
        held_out = round(TEST_SHARE * len(pairs))
        train += pairs[held_out:]
        test += pairs[:held_out]
    return {
        f"{split}_v3_combined_split": [
            {"text": format_llama3(question, answer)}
            for question, answer in Dice(seed, "regulations", split).shuffle(pairs)
        ]
        for split, pairs in (("train", train), ("test", test))
    }


def format_llama3(question: str, answer: str) -> str:
    """One turn of each in the template of Llama 3, from the beginning of the text to the end of the turn."""
    return (
        f"<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{question}<|eot_id|>"
        f"<|start_header_id|>assistant<|end_header_id|>\n\n{answer}<|eot_id|>"
    )


def _ask(phrases: Mapping, verdict: str, facts: Mapping, dice: Dice) -> Pair:
    return fill(dice.pick(phrases["questions"]), facts, dice), fill(phrases[verdict], facts, dice)


def _ask_grades(phrases: Mapping, subjects: list[str], dice: Dice) -> Iterator[Pair]:
    for tenths in dice.sample(range(21, 101), 60):
        facts = {"value": _decimal(tenths), "subject": dice.pick(subjects)}
        yield _ask(phrases, "yes" if tenths >= PASS_TENTHS else "no", facts, dice)


def _ask_attendance(phrases: Mapping, subjects: list[str], dice: Dice) -> Iterator[Pair]:
    # Of 20, 25 and 50 classes every share is a whole number of percent.
    plans = [(present, total) for total in (20, 25, 50) for present in range(total // 2, total)]
    for present, total in dice.sample(plans, 45):
        percent = 100 * present // total
        facts = {"present": present, "total": total, "percent": percent, "subject": dice.pick(subjects)}
        yield _ask(phrases, "yes" if percent >= ATTENDANCE_PERCENT else "no", facts, dice)


def _ask_fines(phrases: Mapping, _subjects: list[str], dice: Dice) -> Iterator[Pair]:
    for days in dice.sample(range(3, 45), 36):
        yield _ask(phrases, "answer", {"days": days, "amount": _decimal(5 * days)}, dice)


def _ask_loads(phrases: Mapping, _subjects: list[str], dice: Dice) -> Iterator[Pair]:
    low, high = CREDITS
    for credits in dice.sample(range(6, 49), 40):
        verdict = "low" if credits < low else "high" if credits > high else "yes"
        yield _ask(phrases, verdict, {"credits": credits}, dice)


def _ask_grants(phrases: Mapping, _subjects: list[str], dice: Dice) -> Iterator[Pair]:
    for tenths in dice.sample(range(65, 101), 36):
        verdict = "yes" if tenths >= GRANT_TENTHS else "no"
        yield _ask(phrases, verdict, {"value": _decimal(tenths)}, dice)


def _ask_attempts(phrases: Mapping, subjects: list[str], dice: Dice) -> Iterator[Pair]:
    plans = [(subject, used) for subject in subjects for used in phrases["used"]]
    for subject, (used, times, left) in dice.sample(plans, 40):
        yield _ask(phrases, "answer", {"subject": subject, "used": used, "times": times, "left": left}, dice)


def _ask_internships(phrases: Mapping, _subjects: list[str], dice: Dice) -> Iterator[Pair]:
    for hours in dice.sample(range(10, 236, 5), 40):
        yield _ask(phrases, "answer", {"hours": hours, "left": INTERNSHIP_HOURS - hours}, dice)


def _decimal(tenths: int) -> str:
    """Tenths as Spanish writes them: 64 is "6,4", 60 is "6"."""
    return f"{tenths // 10},{tenths % 10}".removesuffix(",0")


_CASES = {
    "grade": _ask_grades,
    "attendance": _ask_attendance,
    "fine": _ask_fines,
    "load": _ask_loads,
    "grant": _ask_grants,
    "attempts": _ask_attempts,
    "internship": _ask_internships,
}
