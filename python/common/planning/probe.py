"""A slice of a model, two layers of its very shape with random weights, loaded and trained as the training would.

It runs in a process of its own (:mod:`common.planning.measuring`), so that the memory it takes can be told from
everything else's.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import ExitCode, Problem, UserError
from common.runs import ROOT
from common.runs.launch import training_environment
from common.settings import Recipe

MARK = "RESULT "  # before the line with what was measured


@dataclass(frozen=True)
class Slice:
    """What a slice measured: seconds, GiB and GiB a token, of a layer in the middle and of a model with a single one.

    The single layer is the first and the last at once; all that is not a layer is counted with it. ``step`` and
    ``forward`` are seconds a token of forward and backward, and of forward alone. ``spread`` is how much repeats of the
    same step differ, relative. ``load_s_per_gib`` is a GiB of the weights' file.
    """

    layer_step_s: float
    single_step_s: float
    layer_forward_s: float
    single_forward_s: float
    optimizer_s: float  # of one layer's adapter
    first_s: float  # that the first step takes more than the others
    spread: float
    layer_activations: float
    single_activations: float
    longest_tokens: int
    transient: float  # at so many tokens, what neither weights nor kept activations explain
    runtime: float
    loading_share: float  # memory that loading takes beyond the weights, as a share of their file
    load_s_per_gib: float
    start_s: float

    def step_s(self, layers: int) -> float:
        """Return the seconds a token of forward and backward through ``layers`` and the rest, nothing recomputed."""
        return (layers - 1) * self.layer_step_s + self.single_step_s

    def forward_s(self, layers: int) -> float:
        return (layers - 1) * self.layer_forward_s + self.single_forward_s

    def activations(self, layers: int) -> float:
        """Return the GiB a token that ``layers`` and the rest keep for the backward pass."""
        return (layers - 1) * self.layer_activations + self.single_activations


def measure_slice(recipe: Recipe, config: dict[str, Any], longest: Sequence, usual: Sequence) -> Slice:
    """Train a slice in a process of its own and return what it measured.

    ``longest`` and ``usual`` are encoded examples that go through the model at a time: those that take the most memory,
    and those that are like most in length. Raises UserError (70) when the slice cannot be trained, with its reason.
    """
    task = {
        "recipe": recipe.to_dict(),
        "config": config,
        "longest": [_as_lists(example) for example in longest],
        "usual": [_as_lists(example) for example in usual],
    }
    code = "import sys; from common.planning.measuring import run_task; run_task(sys.argv[1])"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.json"
        path.write_text(json.dumps(task), encoding="utf-8")
        environment = training_environment() | {"PYTHONPATH": str(ROOT / "python"), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", code, str(path)]
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found = [line for line in answer.stdout.splitlines() if line.startswith(MARK)]
    if not found:
        reason = (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
        what = f"two layers of this model could not be trained here: {reason}"
        raise UserError(Problem(what, next_step="--no-probe plans without times"), ExitCode.INTERNAL)
    return Slice(**json.loads(found[0].removeprefix(MARK)))


def count_tokens(part) -> int:
    """Return how many tokens a part computes: those of a pack, or of a micro-batch with its padding."""
    return len(part) if hasattr(part, "layout") else len(part) * max(len(example) for example in part)


def _as_lists(example) -> dict[str, list]:
    ids = [int(token) for token in example.input_ids]
    return {"input_ids": ids, "completion_mask": [bool(trained) for trained in example.completion_mask]}
