"""What the slice's process does: load two layers, train them for a moment, measure, and print the result.

A model with one layer and one with several differ by layers in the middle of the model: the rest is arithmetic. The
last layer stays a last one, for it may do less than the others.
"""

import copy
import gc
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from common.hardware import GIB
from common.planning.probe import MARK, count_tokens
from common.process_memory import peak_rss_gib
from common.recipes import restore_recipe
from common.settings import Recipe

LAYERS = 2
_TIME_S = 12.0  # how long the same thing is repeated at most, after the first three times
_FEWEST, _MOST = 2, 7
_DEEPEST = 9  # passes through layers, where a single one is lost beside a large vocabulary


def run_task(path: str) -> None:
    """In the slice's process: measure, and print the result as a line of JSON."""
    started = time.monotonic()
    task = json.loads(Path(path).read_text(encoding="utf-8"))
    import torch

    from common.chat import Encoded
    from common.runs import runs_dir

    recipe = restore_recipe(task["recipe"])
    torch.set_num_threads(recipe.training.threads)
    examples = {part: [Encoded(**row) for row in task[part]] for part in ("longest", "usual")}
    runs_dir().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=runs_dir(), prefix=".probe-") as folder:
        result = _measure(recipe, task["config"], examples, Path(folder), time.monotonic() - started)
    print(MARK + json.dumps(result))


def _measure(recipe: Recipe, config: dict, examples: dict, folder: Path, start_s: float) -> dict[str, float]:
    from common import footprint, random_model, recycled_memory

    layers_of_model = config["num_hidden_layers"]
    config = config | {"num_hidden_layers": LAYERS}
    random_model.write_model(config, folder / "model", tiled=True)
    (folder / "model" / "tokenizer.json").write_text("{}")
    file_gib = sum(shard.stat().st_size for shard in (folder / "model").glob("*.safetensors")) / GIB

    linear, _ = footprint.count_weights(config | {"num_hidden_layers": 1})
    depth = min(_DEEPEST, layers_of_model, 1 + math.ceil(config["vocab_size"] * config["hidden_size"] / linear))
    trainer, loading_gib, load_s = _load_trainer(recipe, folder, file_gib)
    deep = max(depth, LAYERS)
    stack = _Stack(trainer, deep)
    optimizer = trainer.create_optimizer()
    times: dict[int, list[float]] = {1: [], deep: []}

    def step(part: str, layers: int) -> float:
        stack.use(layers)
        return _timed(trainer, lambda: trainer.training_step(trainer.model, {"examples": examples[part]}))

    first_s = step("longest", deep)
    optimizer_s = min(_timed(trainer, optimizer.step) for _ in range(2))
    trainer.model.zero_grad()
    gc.collect()
    recycled_memory.give_back_spare()  # what the step takes of it again is counted with the step
    before = _rss_gib()
    _reset_peak()
    first_s -= step("longest", deep)
    peak = _peak_gib()
    kept = {layers: _kept_gib(trainer, stack, layers, examples["longest"]) for layers in (1, deep)}
    tokens = _count_tokens(trainer, examples["longest"])
    activations = (kept[deep] - kept[1]) / (deep - 1) / tokens
    states = footprint.count_trainable(config, recipe.method) * 16 / GIB
    weights = footprint.weights_gib(config, recipe.model.precision, recipe.model.compute)

    began = time.monotonic()
    for number in range(_MOST):
        if number >= _FEWEST and time.monotonic() - began > _TIME_S:
            break
        for layers in (1, deep):
            times[layers].append(step("usual", layers))
    usual = _count_tokens(trainer, examples["usual"])
    forward = {layers: _time_forward(trainer, stack, layers, examples["usual"]) / usual for layers in (1, deep)}
    seconds = {layers: median(found) / usual for layers, found in times.items()}
    layer_forward_s = max(forward[deep] - forward[1], forward[deep] / (4 * deep)) / (deep - 1)  # noise must not eat it
    layer_step_s = max((seconds[deep] - seconds[1]) / (deep - 1), 2 * layer_forward_s)  # forward, and as much backward
    both = times[deep]
    return {
        "layer_step_s": layer_step_s,
        "single_step_s": max(0.0, seconds[deep] - (deep - 1) * layer_step_s),
        "layer_forward_s": layer_forward_s,
        "single_forward_s": max(0.0, forward[deep] - (deep - 1) * layer_forward_s),
        "optimizer_s": optimizer_s / LAYERS,
        "first_s": max(0.0, first_s),
        "spread": (max(both) - min(both)) / median(both),
        "layer_activations": activations,
        "single_activations": kept[1] / tokens,
        "longest_tokens": tokens,
        "transient": max(0.0, peak - before - kept[deep]),
        "runtime": max(0.0, before - weights - states),
        "loading_share": loading_gib / file_gib,
        "load_s_per_gib": load_s / file_gib,
        "start_s": start_s,
    }


def _load_trainer(recipe: Recipe, folder: Path, file_gib: float):
    """Return a trainer of the slice, the GiB that loading took beyond what stayed, and the seconds it took."""
    from common.jobs import Job
    from common.methods import add_method
    from common.models import load_model
    from common.training import new_trainer, seed_everything

    seed_everything(recipe.training.seed)
    recipe.training.activation_checkpointing = "off"  # what recomputing costs follows from forward and backward
    recipe.training.deepspeed = None
    recipe.training.max_steps = 1
    _reset_peak()
    began = time.monotonic()
    model = load_model(folder / "model", recipe.model.precision, recipe.training.device, recipe.model.compute)
    load_s = time.monotonic() - began
    loading_gib = max(0.0, _peak_gib() - _rss_gib())
    model = add_method(model, recipe.method, recipe.model.name, folder / "model")
    job = Job(recipe, "probe", train_set=[None], tokenizer=SimpleNamespace(pad_token_id=0))
    trainer = new_trainer(job, model, folder / "run")
    if recipe.training.device != "cpu":
        model.to(recipe.training.device)
    return trainer, loading_gib if loading_gib > 0.1 * file_gib else 0.0, load_s


class _Stack:
    """Lets the model pass through its two layers again and again, and through the last one as a last one."""

    def __init__(self, trainer, deepest: int):
        base = trainer.model.get_base_model()
        self.model, self.config = base.model, base.config
        self.types = list(getattr(base.config, "layer_types", None) or [])
        middle = list(base.model.layers)
        self.last = copy.copy(middle[-1])  # the same weights, and the forward pass that packs give a last layer
        vars(middle[-1]).pop("forward", None)
        self.middle = [middle[k % LAYERS] for k in range(deepest - 1)]
        self.use(deepest)

    def use(self, layers: int) -> None:
        import torch

        self.model.layers = torch.nn.ModuleList([*self.middle[: layers - 1], self.last])
        self.config.num_hidden_layers = layers
        if self.types:
            self.config.layer_types = [self.types[k % LAYERS] for k in range(layers - 1)] + self.types[-1:]


def _timed(trainer, work: Callable[[], Any]) -> float:
    _wait_for_device(trainer)
    began = time.perf_counter()
    work()
    _wait_for_device(trainer)
    return time.perf_counter() - began


def _time_forward(trainer, stack: _Stack, layers: int, examples: Sequence) -> float:
    import torch

    stack.use(layers)

    def evaluate() -> None:
        trainer.model.eval()
        with torch.no_grad():
            for part in trainer.split_step(examples):
                trainer.sum_loss(part)

    return min(_timed(trainer, evaluate) for _ in range(2))


def _kept_gib(trainer, stack: _Stack, layers: int, examples: Sequence) -> float:
    from common.memory_probe import measure_kept_gib

    stack.use(layers)
    return measure_kept_gib(trainer, examples)


def _count_tokens(trainer, examples: Sequence) -> int:
    return sum(count_tokens(part) for part in trainer.split_step(examples))


def _wait_for_device(trainer) -> None:
    import torch

    if (kind := trainer.args.device.type) in ("cuda", "mps"):
        getattr(torch, kind).synchronize()


def _rss_gib() -> float:
    from common.runs.processes import rss_gib

    return rss_gib(os.getpid()) or 0.0


def _reset_peak() -> None:
    """Let the peak start anew (Linux: proc(5), clear_refs); elsewhere it is that of the whole process."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pass


def _peak_gib() -> float:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / GIB
    except (OSError, StopIteration):
        return peak_rss_gib()
