"""The measures of one model on the test items, and the report of all models, each beside the base."""

import gc
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from common.chat import encode_examples
from common.data import Loaded
from common.errors import ExitCode, Problem, UserError
from common.evaluation.candidates import BASE, Candidate, check_candidates
from common.evaluation.recommending import Limits, paired_test, recommend
from common.evaluation.texts import MEASURES, corpus_bleu, score_texts
from common.generation import Decoding, generate
from common.generation.answers import without_thought
from common.generation.local import LocalArm, LocalModel
from common.manifest import describe_git, package_versions
from common.model_files import hash_model_files
from common.models import load_tokenizer
from common.runs import read_json, utc_now, write_json
from common.statistics import CONFIDENCE, RESAMPLES, mean_interval

PAIRED = ("loss", *MEASURES)


class Judged:
    """The measures of models that are judged already, kept in a file until the report is written.

    The key holds all that decides them: weights, adapter, precision, versions, items, decoding, this project's commit.
    Without a path nothing is kept.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self._measures: dict[str, dict] = read_json(path) if path and path.is_file() else {}

    @staticmethod
    def key(*parts) -> str:
        return hashlib.sha256(json.dumps([*parts, describe_git()["commit"]], sort_keys=True).encode()).hexdigest()

    def get(self, key: str) -> dict | None:
        return self._measures.get(key)

    def put(self, key: str, measures: dict) -> None:
        self._measures[key] = measures
        if self.path:
            write_json(self.path, self._measures)

    def forget(self) -> None:
        if self.path:
            self.path.unlink(missing_ok=True)


def judge(
    candidates: Sequence[Candidate],
    test: Loaded,
    decoding: Decoding,
    limits: Limits,
    max_length_tokens: int,
    progress: Callable[[str, int, int], None],
    judged: Judged,
) -> dict:
    """Judge all candidates, one in memory at a time, and return the report: metadata, items, models, differences,
    recommendation. The first candidate is the base. What is in ``judged`` is not measured again.

    Raises UserError before any weight is loaded: 65 for fewer than two items, or items too long; 78 for models that do
    not belong together.
    """
    if len(test) < 2:
        raise UserError(Problem(f"{test.path}: {len(test)} item", "two or more to compare"), ExitCode.DATA)
    base_hashes = hash_model_files(candidates[0].base)
    check_candidates(candidates, base_hashes, test)
    encoded = encode_examples(load_tokenizer(candidates[0].base), test.examples, max_length_tokens=max_length_tokens)
    models = {}
    for candidate in candidates:
        identity = _arm(candidate, candidate.open(base_hashes)).identity
        key = judged.key(identity, test.sha256, asdict(decoding), max_length_tokens)
        measures = judged.get(key)
        if measures is None:
            measures = measure(candidate, candidate.open(base_hashes), encoded, test, decoding, progress)
            gc.collect()  # one model in memory at a time
            judged.put(key, measures)
        head = {"kind": candidate.kind, "precision": candidate.precision}
        models[candidate.name] = head | measures | candidate.costs()
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


def measure(
    candidate: Candidate, model: LocalModel, encoded: Sequence, test: Loaded, decoding: Decoding, progress
) -> dict:
    """Return every measure of one model. Losses are in nats per answer token, texts are scored in [0, 1]."""
    conversations = [list(example.prompt_messages) for example in test]
    loss_sums, token_counts = answer_losses(model.model, encoded, model.tokenizer.pad_token_id)

    begin = time.monotonic()
    told = partial(progress, candidate.name)
    rows = generate(_arm(candidate, model), conversations, decoding, progress=told)
    seconds = time.monotonic() - begin
    answers = [row[0] for row in rows]
    texts, references = [answer.text for answer in answers], [without_thought(example.completion) for example in test]
    scores = score_texts(texts, references)
    tokens = sum(answer.completion_tokens for answer in answers)
    loss = sum(loss_sums) / sum(token_counts)
    items = {"loss": [s / n for s, n in zip(loss_sums, token_counts, strict=True)], **scores}
    return {
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
        "item_scores": items,
        "answers": texts,
    }


def _arm(candidate: Candidate, model: LocalModel) -> LocalArm:
    return LocalArm(candidate.name, model, use_adapter=candidate.adapter is not None)


def answer_losses(model, examples: Sequence, pad_token_id: int) -> tuple[list[float], list[int]]:
    """Return for each encoded example the summed cross-entropy of its answer (nats) and its number of answer tokens."""
    import torch

    from common.batches import count_trained, pad

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


def _metadata(candidates: Sequence[Candidate], test: Loaded, decoding: Decoding, limits: Limits) -> dict:
    from common.hardware import describe

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
