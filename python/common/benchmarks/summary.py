"""From single measurements to medians, ratios and a table."""

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from common.benchmarks.trainings import EXAMPLES_PER_STEP, MAX_LENGTH_TOKENS
from common.footprint import count_multiplied, count_weights, linear_shapes
from common.model_files import read_config
from common.models import load_tokenizer

_READ_THE_EMBEDDING = ("q_proj", "k_proj", "v_proj", "qkv_proj")  # in the first layer
_MLP = ("gate_proj", "up_proj", "gate_up_proj", "down_proj")


def summarise(
    model: Path, examples: Sequence, measured: Mapping[str, list[dict]], gemm_tflops: float
) -> dict[str, Any]:
    """Return the figures of one workload: medians by arm, ratios, and the share of the machine's matrix rate.

    Tokens are real ones, prompt and answer of every example, whatever an arm computes to train them.
    """
    from common.chat import encode_examples
    from common.packing import count_computed, plan_packs
    from common.settings import TrainingSettings

    data = encode_examples(load_tokenizer(model), examples, max_length_tokens=MAX_LENGTH_TOKENS)
    tokens = int(data.lengths.sum())
    trained = sum(sum(example.completion_mask) for example in data)
    steps = [data[start : start + EXAMPLES_PER_STEP] for start in range(0, len(data), EXAMPLES_PER_STEP)]
    pack_tokens = measured["ours"][0]["pack_tokens"] if measured.get("ours") else TrainingSettings.pack_tokens
    planned = [plan_packs(step, pack_tokens, begin_once=True) for step in steps]
    packs = list(chain.from_iterable(planned))
    computed, predicted = sum(map(count_computed, planned)), sum(len(pack.targets) for pack in packs)
    carried = sum(len(set(pack.predict_at.tolist())) for pack in packs)
    arms = {
        arm: {
            "seconds": median(figure["seconds"] for figure in figures),
            "seconds_all": [round(figure["seconds"], 2) for figure in figures],
            "tokens_per_s": tokens / median(figure["seconds"] for figure in figures),
            "peak_rss_gib": median(figure["peak_rss_gib"] for figure in figures),
        }
        for arm, figures in measured.items()
    }
    result = {
        "examples": len(data),
        "tokens": tokens,
        "prompt_share": 1 - trained / tokens,
        "computed_tokens": computed,
        "arms": arms,
    }
    if "ours" in arms:
        ours = arms["ours"]["seconds"]
        result |= {f"ratio_vs_{arm}": figures["seconds"] / ours for arm, figures in arms.items() if arm != "ours"}
        if "trainer" in arms:
            result["peak_rss_vs_trainer"] = arms["ours"]["peak_rss_gib"] / arms["trainer"]["peak_rss_gib"]
        config = read_config(model)
        possible = ours * 1e12 * gemm_tflops
        result["roofline_fraction"] = 4 * count_multiplied(config) * computed / possible
        result["executed_fraction"] = count_operations(config, computed, carried, predicted) / possible
    return result


def count_operations(config: Mapping[str, Any], computed: int, carried: int, predicted: int) -> int:
    """Return the floating-point operations that our training of an adapter executes in products with the weights.

    4 a weight and computed token: forward, and backward to the activations, for a frozen weight has no gradient of its
    own. Less than that: what reads the embedding needs no gradient for its input, the last layer's MLP computes the
    ``carried`` tokens only, the head one row for each of those ``predicted``.
    """
    linear, _ = count_weights(config)
    shapes = {name: math.prod(shape) for name, shape in linear_shapes(config).items()}
    first = sum(size for name, size in shapes.items() if name in _READ_THE_EMBEDDING)
    mlp = sum(size for name, size in shapes.items() if name in _MLP)
    head = config["hidden_size"] * config["vocab_size"]
    return (4 * linear - 2 * first) * computed - 4 * mlp * (computed - carried) + 4 * head * predicted


def print_table(report: Mapping[str, Any]) -> None:
    """Print the report's figures to the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"CPU training, {report['gemm_tflops']:.2f} TFLOP/s bf16 matrix rate")
    for column in ("workload", "arm", "seconds", "tokens/s", "peak GiB", "ours is faster by"):
        table.add_column(column, justify="left" if column in ("workload", "arm") else "right")
    for name, workload in report["workloads"].items():
        ours = workload["arms"].get("ours", {}).get("seconds")
        for arm, figures in workload["arms"].items():
            ratio = f"{figures['seconds'] / ours:.2f}×" if ours and arm != "ours" else ""
            cells = (
                f"{figures['seconds']:.1f}",
                f"{figures['tokens_per_s']:.0f}",
                f"{figures['peak_rss_gib']:.1f}",
                ratio,
            )
            table.add_row(name, arm, *cells)
        table.add_section()
    Console().print(table)
    for name, workload in report["workloads"].items():
        share = ""
        if "roofline_fraction" in workload:
            share = f", {workload['roofline_fraction']:.2f} of the matrix rate"
            share += f" ({workload['executed_fraction']:.2f} counting only what it multiplies)"
        print(
            f"{name}: {workload['examples']} examples, {workload['tokens']:,} tokens, "
            f"{workload['prompt_share']:.0%} prompt; ours computes {workload['computed_tokens']:,}{share}"
        )
    print(f"gradients of packs against one by one, fp32: relative difference {report['gradient_rel_diff']:.1e}")
