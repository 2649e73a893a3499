"""A comparison of three arms, or four, on one held-out set: asked, scored, tested, judged, and put into one report."""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from common.comparison.apparatus import check_apparatus
from common.comparison.held_out import OWN_DATA, check_separation
from common.comparison.notes import note_cut_answers, note_fourth_arm, note_lost_demonstrations, note_repeats
from common.comparison.thresholds import Thresholds
from common.comparison.verdict import ARMS, BOTH, decide, paired_tests
from common.data import Example, Loaded, Message
from common.errors import ExitCode, Problem, UserError
from common.generation import Answer, Decoding, generate
from common.generation.answers import AnswerCache, without_thought
from common.generation.arms import Arm
from common.generation.programs import Prompt
from common.runs import utc_now
from common.scoring import Metric
from common.statistics import CLAIM_P, CONFIDENCE, RESAMPLES, summarise


@dataclass
class Comparison:
    """Everything a comparison works on. ``known`` are the splits the arms may have seen, by name (train first);
    ``prompt`` is the optimised one, for the arms that are asked with it."""

    arms: dict[str, Arm]
    test: Loaded
    known: dict[str, Loaded]
    prompt: Prompt
    metric: Metric
    decoding: Decoding
    thresholds: Thresholds
    notes: list[str] = field(default_factory=list)

    def conversations(self, arm: str) -> list[list[Message]]:
        """What ``arm`` is asked: each item's turns before the answer, with the optimised prompt around them or not."""
        prompt = self.prompt if arm in ("optimized", BOTH) else Prompt()
        return [prompt.around(example.prompt_messages) for example in self.test]


def choose_demonstrations(train: Sequence[Example], count: int, metric: Metric, seed: int) -> list[Example]:
    """Draw ``count`` training examples that the metric gives its highest mark, the same ones for the same seed.

    Raises UserError (64) when there are fewer examples than that.
    """
    usable = [example for example in train if example.messages]
    if count > len(usable):
        raise UserError(
            Problem(f"--demonstrations {count}", f"there are {len(usable)} training examples"), ExitCode.USAGE
        )
    gold = [without_thought(example.completion) for example in usable]
    marks = [metric(text, text)[0] for text in gold]
    best = [example for example, mark in zip(usable, marks, strict=True) if mark >= max(marks) - 1e-9]
    pool = best if len(best) >= count else usable
    order = sorted(pool, key=lambda example: (example.prompt, example.completion))
    return random.Random(seed).sample(order, count)


def compare(
    work: Comparison, *, cache: AnswerCache | None = None, progress: Callable[[str, int, int], None] | None = None
) -> dict:
    """Ask all arms, score, test and judge. Return the report: metadata, items, models, comparison, checks.

    Raises UserError: 65 for too few or leaking items or a prompt too long, 69 when a server stays away.
    """
    count = len(_rows_by_question(work.test.examples))
    if count < 2:
        raise UserError(Problem(f"{work.test.path}: {count} question", "two or more to compare"), ExitCode.DATA)
    leaks = check_separation(work.test, work.known, work.prompt)
    checks = check_apparatus(work.test.examples, work.metric, work.thresholds)
    names = [name for name in (*ARMS, BOTH) if name in work.arms]
    for name in names:
        work.arms[name].check(work.conversations(name), [example.source for example in work.test])

    def ask(name: str, conversations: list[list[Message]], shown_as: str = "") -> list[list[Answer]]:
        told = (lambda done, total: progress(shown_as or name, done, total)) if progress else (lambda done, total: None)
        return generate(work.arms[name], conversations, work.decoding, cache=cache, progress=told)

    models, questions = {}, _rows_by_question(work.test.examples)
    for name in names:
        begin = time.monotonic()
        judged = _judge_arm(work, questions, ask(name, work.conversations(name)))
        models[name] = judged | {"seconds": round(time.monotonic() - begin, 2)}
    scores = {name: _scores_of_questions(models[name]["predictions"], questions) for name in names}
    tests = paired_tests(scores)
    decision = asdict(decide(scores, work.thresholds))
    decision["notes"] += note_repeats(questions) + note_cut_answers(models) + note_fourth_arm(models, tests)
    if work.prompt.demonstrations and work.arms["optimized"].identity == work.arms["baseline"].identity:
        decision["notes"] += note_lost_demonstrations(models)
    if tests["finetuned_vs_optimized"].mean < 0 and work.known.get("train"):
        decision["notes"] += _look_for_overfitting(work, models["finetuned"]["scores"]["mean"], ask)
    return {
        "metadata": _metadata(work),
        "items": [_describe_item(example) for example in work.test],
        "models": models,
        "comparison": {
            "ranking": [{"model": name, "mean": models[name]["scores"]["mean"]}
                        for name in sorted(names, key=lambda name: -models[name]["scores"]["mean"])],
            "tests": {name: test.as_dict() for name, test in tests.items()},
            "effect_sizes": {name: test.cohens_d for name, test in tests.items()},
            "decision": decision,
        },
        "checks": checks | {"leaks": leaks},
    }  # fmt: skip


def _rows_by_question(examples: Sequence[Example]) -> list[list[int]]:
    """Return the rows of each question. One that several rows ask is one item: their scores are not independent."""
    rows: dict[tuple, list[int]] = {}
    for row, example in enumerate(examples):
        rows.setdefault(tuple(example.prompt_messages), []).append(row)
    return list(rows.values())


def _scores_of_questions(predictions: Sequence[Mapping], questions: Sequence[Sequence[int]]) -> list[float]:
    return [sum(predictions[row]["score"] for row in rows) / len(rows) for rows in questions]


def _look_for_overfitting(work: Comparison, on_test: float, ask: Callable) -> list[str]:
    """Score the fine-tuned model on as many of its training examples as there are test items, and say what it means."""
    usable = [example for example in work.known.get(OWN_DATA, work.known["train"]) if example.messages]
    if not usable:
        return []
    drawn = random.Random(work.decoding.seed).sample(usable, min(len(usable), len(work.test)))
    answers = ask("finetuned", [list(example.prompt_messages) for example in drawn], "Fine-tuned on training data")
    pairs = zip(drawn, answers, strict=True)
    scores = [_judge_answer(work.metric, a, example.completion)["score"] for example, row in pairs for a in row]
    on_train = sum(scores) / len(scores)
    by_heart = on_train > on_test + work.thresholds.adopt_gain
    meaning = "it has learnt them by heart" if by_heart else "it is no better there"
    return [f"On {len(drawn)} of its training examples the fine-tuned model scores {100 * on_train:.1f} %: {meaning}."]


def _judge_arm(work: Comparison, questions: Sequence[Sequence[int]], answers: list[list[Answer]]) -> dict:
    max_new_tokens = work.decoding.max_new_tokens
    predictions = []
    for example, samples in zip(work.test, answers, strict=True):
        judged = [_judge_answer(work.metric, answer, example.completion) for answer in samples]
        mean = sum(answer["score"] for answer in judged) / len(judged)
        predictions.append({"source": example.source, "score": mean, "answers": judged})
    every = [answer for prediction in predictions for answer in prediction["answers"]]
    names = list(dict.fromkeys(name for answer in every for name in answer["components"]))
    return {
        "scores": summarise(_scores_of_questions(predictions, questions)),
        "component_scores": {
            name: sum(answer["components"].get(name, 0.0) for answer in every) / len(every) for name in names
        },
        "answers": {
            "total": len(every),
            "truncated": sum(answer["finish_reason"] == "length" for answer in every),
            "at_context_end": sum(
                answer["finish_reason"] == "length" and 0 < answer["completion_tokens"] < max_new_tokens
                for answer in every
            ),
            "empty": sum(not answer["text"].strip() for answer in every),
            "errors": sum(answer["finish_reason"] == "error" for answer in every),
            "prompt_tokens": sum(answer["prompt_tokens"] for answer in every),
            "completion_tokens": sum(answer["completion_tokens"] for answer in every),
        },
        "predictions": predictions,
    }


def _judge_answer(metric: Metric, answer: Answer, reference: str) -> dict:
    """Score an answer; one that a server refused to give counts as zero, and is shown as what it is.

    What an answer loses of a thought before it, the reference loses too.
    """
    score, components = metric(answer.text, without_thought(reference))
    if answer.finish_reason == "error":
        score, components = 0.0, dict.fromkeys(components, 0.0)
    return asdict(answer) | {"score": score, "components": components}


def _metadata(work: Comparison) -> dict:
    from common.manifest import describe_git, package_versions

    return {
        "created_at": utc_now(),
        "metric": work.metric.name,
        "decoding": asdict(work.decoding),
        "thresholds": asdict(work.thresholds),
        "statistics": {"confidence": CONFIDENCE, "claim_p": CLAIM_P, "resamples": RESAMPLES, "unit": "item"},
        "data": {name: loaded.summary() for name, loaded in {"test": work.test, **work.known}.items()},
        "prompt": work.prompt.describe(),
        "arms": {name: {"description": arm.description, "identity": arm.identity} for name, arm in work.arms.items()},
        "versions": package_versions(),
        "git": describe_git(),
        "notes": list(work.notes),
    }


def _describe_item(example: Example) -> dict:
    from common.data.business_analyst import concept_of

    try:
        title = concept_of(example)
    except ValueError:
        title = example.prompt_messages[-1].content if example.prompt_messages else ""
    return {"source": example.source, "title": title, "reference": example.completion}
