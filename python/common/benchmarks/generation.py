"""Speed of answering: this project's decoding against the stock one, on equal prompts with equal answers."""

import argparse
import time
from collections.abc import Callable, Sequence

from common.data import load_examples
from common.errors import ExitCode, Problem, UserError
from common.generation import Decoding, Request
from common.generation.arms import find_local
from common.generation.local import LocalArm, LocalModel
from common.runs import ROOT


def measure_generation(args: argparse.Namespace) -> dict:
    """Time one by one, plain batches of each size, and ours; return times, rates and whether all answers agree."""
    from common import hardware
    from common.manifest import describe_git, package_versions
    from common.runs import utc_now

    prompts, local = _load(args)
    ways: dict[str, Callable[[], list[list[int]]]] = {"one_by_one": lambda: _generate_plain(local, prompts, 1, args)}
    for size in args.batch_sizes:
        ways[f"batches_of_{size}"] = lambda size=size: _generate_plain(local, prompts, size, args)
    ways["ours"] = lambda: _generate_ours(local, prompts, args)
    local.model.generation_config.max_length = None

    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[list[int]]] = {}
    for repeat in range(args.repeats):
        for name, answer in ways.items():
            if name == "one_by_one" and repeat:  # the slowest by far: once is enough to be beaten many times over
                continue
            begin = time.perf_counter()
            answers[name] = answer()
            seconds[name].append(time.perf_counter() - begin)
    tokens = sum(map(len, answers["ours"]))
    best = {name: min(times) for name, times in seconds.items()}
    plain = min((name for name in best if name.startswith("batches")), key=best.get)
    return {
        "created_at": utc_now(),
        "model": str(local.folder),
        "precision": local.precision,
        "items": len(prompts),
        "answer_tokens": tokens,
        "prompt_tokens": sum(len(row.prompt) for row in LocalArm("ours", local).rows(prompts, Decoding())),
        "seconds": {name: [round(s, 3) for s in times] for name, times in seconds.items()},
        "items_per_s": {name: len(prompts) / s for name, s in best.items()},
        "tokens_per_s": {name: tokens / s for name, s in best.items()},
        "best_plain_batch": plain,
        "times_one_by_one": best["one_by_one"] / best["ours"],
        "times_best_plain_batch": best[plain] / best["ours"],
        "answers_equal": {name: sum(map(list.__eq__, answers[name], answers["ours"])) for name in ways},
        "versions": package_versions(),
        "hardware": hardware.describe(),
        "git": describe_git(),
    }


def describe_result(result: dict) -> str:
    """A table of the ways, quickest last, and the two ratios."""
    lines = [f"{result['items']} items, {result['answer_tokens']} answer tokens, {result['precision']}"]
    for name, rate in sorted(result["items_per_s"].items(), key=lambda pair: pair[1]):
        equal = result["answers_equal"][name]
        lines.append(
            f"{name.replace('_', ' '):<16} {rate:8.2f} items/s {result['tokens_per_s'][name]:9.0f} tokens/s"
            f"   {equal} of {result['items']} answers as ours"
        )
    lines.append(
        f"ours is {result['times_one_by_one']:.1f} times one by one, "
        f"{result['times_best_plain_batch']:.2f} times the best plain batch"
    )
    return "\n".join(lines)


def _load(args: argparse.Namespace) -> tuple[list[Request], LocalModel]:
    folder, _ = find_local(args.model)
    path = ROOT / args.data if (ROOT / args.data).exists() else args.data
    examples = load_examples(path).examples[: args.items]
    if len(examples) < 2 or args.repeats < 1:
        raise UserError(Problem("nothing to measure", "two or more prompts, one or more repeats"), ExitCode.USAGE)
    return [Request(example.prompt_messages) for example in examples], LocalModel(folder, args.precision)


def _generate_ours(local: LocalModel, prompts: Sequence[Request], args: argparse.Namespace) -> list[list[int]]:
    rows = LocalArm("ours", local).rows(prompts, Decoding(args.max_new_tokens))
    for _ in local.decoder().decode(rows):
        pass
    return [row.tokens for row in rows]


def _generate_plain(local, prompts: Sequence[Request], size: int, args: argparse.Namespace) -> list[list[int]]:
    """`model.generate` as its users call it: left padding, batches of like length, greedy."""
    import torch

    rows = LocalArm("plain", local).rows(prompts, Decoding(args.max_new_tokens))
    ordered = sorted(rows, key=lambda row: -len(row.prompt))
    for start in range(0, len(ordered), size):
        batch = ordered[start : start + size]
        longest = max(len(row.prompt) for row in batch)
        ids = torch.full((len(batch), longest), local.tokenizer.pad_token_id, device=local.model.device)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(batch):
            ids[i, longest - len(row.prompt) :] = torch.tensor(row.prompt)
            mask[i, longest - len(row.prompt) :] = 1
        answers = local.model.generate(
            ids, attention_mask=mask, max_new_tokens=args.max_new_tokens, do_sample=False,
            eos_token_id=local.stop_ids, pad_token_id=local.tokenizer.pad_token_id,
        )  # fmt: skip
        for row, answer in zip(batch, answers[:, longest:].tolist(), strict=True):
            row.tokens = answer[: next((i for i, token in enumerate(answer) if token in local.stop_ids), len(answer))]
    return [row.tokens for row in rows]
