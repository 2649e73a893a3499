"""The measures of one model on the test items, and the report of all models, each beside the base."""

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict

from common.data import Loaded
from common.evaluation.candidates import BASE, Candidate
from common.evaluation.recommending import Limits, recommend
from common.evaluation.texts import MEASURES, corpus_bleu, score_texts
from common.generation import Decoding, generate
from common.generation.local import LocalArm
from common.runs import utc_now
from common.statistics import CONFIDENCE, RESAMPLES, PairedTest, mean_interval

PAIRED = ("loss", *MEASURES)


def judge(
    candidates: Sequence[Candidate],
    test: Loaded,
    decoding: Decoding,
    limits: Limits,
    max_length_tokens: int,
    progress: Callable[[str, int, int], None],
) -> dict:
    """Judge all candidates, one in memory at a time, and return the report: metadata, items, models, differences,
    recommendation. The first candidate is the base.
    """
    models = {
        candidate.name: judge_one(candidate, test, decoding, max_length_tokens, progress) for candidate in candidates
    }
    differences = compare_pairs(models)
    return {
        "metadata": _metadata(candidates, test, decoding, limits),
        "items": [
            {"source": example.source, "prompt": example.prompt, "reference": example.completion} for example in test
        ],
        "models": models,
        "differences": differences,
        "recommendation": recommend(models, limits),
    }


def judge_one(candidate: Candidate, test: Loaded, decoding: Decoding, max_length_tokens: int, progress) -> dict:
    """Return every measure of one model. Losses are in nats per answer token, texts are scored in [0, 1]."""
    from common.chat import encode_examples

    model = candidate.load()
    arm = LocalArm(candidate.name, model, use_adapter=candidate.adapter is not None)
    conversations = [list(example.prompt_messages) for example in test]
    arm.check(conversations, [example.source for example in test])
    encoded = encode_examples(model.tokenizer, test.examples, max_length_tokens=max_length_tokens)
    loss_sums, token_counts = answer_losses(model.model, encoded, model.tokenizer.pad_token_id)

    begin = time.monotonic()
    rows = generate(arm, conversations, decoding, progress=lambda done, total: progress(candidate.name, done, total))
    seconds = time.monotonic() - begin
    answers = [row[0] for row in rows]
    texts, references = [answer.text for answer in answers], [example.completion for example in test]
    scores = score_texts(texts, references)
    tokens = sum(answer.completion_tokens for answer in answers)
    loss = sum(loss_sums) / sum(token_counts)
    items = {"loss": [s / n for s, n in zip(loss_sums, token_counts, strict=True)], **scores}
    del model, arm
    gc.collect()
    return {
        "kind": candidate.kind,
        "precision": candidate.precision,
        "loss": loss,
        "perplexity": math.exp(loss),
        "answer_tokens": sum(token_counts),
        **{name: sum(values) / len(values) for name, values in scores.items()},
        "corpus_bleu": corpus_bleu(texts, references),
        "intervals": {name: asdict(mean_interval(values)) for name, values in items.items()},
        "cut": sum(answer.finish_reason == "length" for answer in answers),
        "empty": sum(answer.is_empty for answer in answers),
        "generated_tokens": tokens,
        "tokens_per_s": tokens / seconds,
        **candidate.costs(),
        "item_scores": items,
        "answers": texts,
    }


def answer_losses(model, examples: Sequence, pad_token_id: int) -> tuple[list[float], list[int]]:
    """Return for each encoded example the summed cross-entropy of its answer (nats) and its number of answer tokens."""
    import torch

    from common.training import count_trained, pad

    sums = []
    with torch.no_grad():
        for example in examples:
            batch = {name: tensor.to(model.device) for name, tensor in pad([example], pad_token_id).items()}
            sums.append(model(**batch, num_items_in_batch=1).loss.item())
    return sums, [count_trained([example]) for example in examples]


def compare_pairs(models: dict[str, dict]) -> dict[str, dict]:
    """Return name → measure → the paired test of each model against the base. Positive is better, also for the loss."""
    return {
        name: {measure: paired_test(models, name, BASE, measure).as_dict() for measure in PAIRED}
        for name in models
        if name != BASE
    }


def paired_test(models: dict[str, dict], new: str, old: str, measure: str) -> PairedTest:
    """Pair two models item by item. Of losses, the one that falls is the gain."""
    sign = -1.0 if measure == "loss" else 1.0
    return PairedTest.of(new, old, {n: [sign * x for x in models[n]["item_scores"][measure]] for n in (new, old)})


def _metadata(candidates: Sequence[Candidate], test: Loaded, decoding: Decoding, limits: Limits) -> dict:
    from common.hardware import describe
    from common.manifest import describe_git, package_versions

    return {
        "created_at": utc_now(),
        "base_model": str(candidates[0].base),
        "adapters": {c.name: str(c.adapter) for c in candidates if c.adapter},
        "test": test.summary(),
        "decoding": asdict(decoding),
        "limits": asdict(limits),
        "statistics": {"confidence": CONFIDENCE, "resamples": RESAMPLES, "unit": "item"},
        "versions": package_versions(),
        "hardware": describe(),
        "git": describe_git(),
    }
