"""What a reader of a comparison should mind: notes on what was asked and answered, below the verdict."""

from collections.abc import Sequence
from dataclasses import asdict

from common.comparison.verdict import BOTH
from common.report.formats import percent, points, span

MANY_CUT = 0.05  # of an arm's answers: worth a note


def note_repeats(questions: Sequence[Sequence[int]]) -> list[str]:
    rows = sum(map(len, questions))
    if rows == len(questions):
        return []
    return [f"{rows} rows ask {len(questions)} questions: the mean of a question's rows counts as one item."]


def note_cut_answers(models: dict) -> list[str]:
    """One line for each arm that was often cut, or refused: its score says more about that than about the model."""
    notes = []
    for name, model in models.items():
        count = model["answers"]
        some = f"of {count['total']} answers of the {name} arm"
        if count["errors"]:
            notes.append(f"{count['errors']} {some} were refused or broken off, and count as 0.")
        if count["truncated"] > max(MANY_CUT * count["total"], count["at_context_end"]):
            notes.append(f"{count['truncated']} {some} were cut: raise --max-new-tokens.")
        if count["at_context_end"]:
            remedy = "use fewer demonstrations, or a model that reads more"
            notes.append(f"{count['at_context_end']} {some} ended where the model's context does: {remedy}.")
    return notes


def note_fourth_arm(models: dict, tests: dict) -> list[str]:
    """What the optimised prompt does to the fine-tuned model; the verdict does not hang on it."""
    if BOTH not in models:
        return []
    mean, test = models[BOTH]["scores"]["mean"], tests[f"{BOTH}_vs_finetuned"]
    change = f"{points(test.mean)} points (95 % interval {span(asdict(test.interval), points)})"
    return [f"Asked with the optimised prompt as well, the fine-tuned model scores {percent(mean)}: {change}."]


def note_lost_demonstrations(models: dict) -> list[str]:
    """Ollama leaves out the first turns of what its context does not hold, and says nothing: its token counts do."""
    pairs = zip(models["baseline"]["predictions"], models["optimized"]["predictions"], strict=True)
    counts = [[arm["answers"][0]["prompt_tokens"] for arm in pair] for pair in pairs]
    lost = sum(0 < optimized <= plain for plain, optimized in counts)
    if not lost:
        return []
    return [
        f"{lost} of {len(counts)} items reached the optimised arm without demonstrations: the server left out what its "
        "context does not hold (of Ollama, num_ctx)."
    ]
