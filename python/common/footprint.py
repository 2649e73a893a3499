"""How much memory and disk a training needs, from the model's config alone: nothing is loaded.

The figures are estimates in GiB. Weights, adapter and optimizer follow from shapes; activations from what PyTorch keeps
for the backward pass of a Mistral-like decoder layer, counted tensor by tensor and rounded up.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from common.hardware import GIB
from common.packing import rows_of_logits
from common.settings import MethodSettings

_BYTES_PER_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.002, "nf4": 0.516}  # with their scales
_BYTES_OF_MOMENTS = {"adamw_torch": 8, "paged_adamw_8bit": 2}  # the two of AdamW, for each trained weight
_RUNTIME_GIB = 0.9  # Python, PyTorch and transformers themselves
_GPU_RUNTIME_GIB = 0.15  # workspaces and cuts; the driver's own part is gone already where free memory is asked for


@dataclass(frozen=True)
class Footprint:
    """Memory in GiB by part. ``logits`` is all that comes and goes within a step, ``loading`` what loading takes
    beyond the weights that stay: a file in another precision, say."""

    runtime: float
    weights: float
    adapter: float  # with its gradient
    optimizer: float
    activations: float
    logits: float
    loading: float = 0.0

    @property
    def total(self) -> float:
        return self.runtime + self.weights + max(self.loading, self._step())

    @property
    def loads_longest(self) -> bool:
        """True where the peak comes while the model is loaded, not in a step."""
        return self.loading > self._step()

    def _step(self) -> float:
        return self.adapter + self.optimizer + self.activations + self.logits

    def parts(self) -> dict[str, float]:
        """Return the parts by name; loading only where there is something to say."""
        names = ("weights", "adapter", "optimizer", "activations", "logits", "runtime", "loading")
        return {name: getattr(self, name) for name in names if name != "loading" or self.loading}

    def to_dict(self) -> dict[str, float]:
        return {name: round(gib, 4) for name, gib in self.parts().items()} | {"total": round(self.total, 4)}

    @classmethod
    def from_dict(cls, parts: Mapping[str, float]) -> "Footprint":
        """Restore what :meth:`to_dict` wrote."""
        return cls(**{field.name: parts.get(field.name, 0.0) for field in fields(cls)})

    def __str__(self) -> str:
        detail = ", ".join(f"{part} {gib:.2f}" for part, gib in self.parts().items())
        return f"{self.total:.1f} GiB ({detail})"


def linear_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) of each linear layer of one decoder layer, by name."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    key_value = (config.get("num_key_value_heads") or heads) * head
    inner = config["intermediate_size"]
    if config.get("model_type") == "phi3":  # it keeps q, k and v in one matrix, gate and up in another
        return {
            "qkv_proj": (hidden, heads * head + 2 * key_value),
            "o_proj": (heads * head, hidden),
            "gate_up_proj": (hidden, 2 * inner),
            "down_proj": (inner, hidden),
        }
    return {
        "q_proj": (hidden, heads * head),
        "k_proj": (hidden, key_value),
        "v_proj": (hidden, key_value),
        "o_proj": (heads * head, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def count_weights(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the numbers of weights (in linear layers, elsewhere): only the former are quantised by nf4."""
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    linear = layers * sum(rows * columns for rows, columns in linear_shapes(config).values())
    embeddings = config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return linear, embeddings + (2 * layers + 1) * hidden


def count_multiplied(config: Mapping[str, Any]) -> int:
    """Return the number of weights that a token is multiplied with: the linear layers' and the head's."""
    return count_weights(config)[0] + config["hidden_size"] * config["vocab_size"]


def count_trainable(config: Mapping[str, Any], method: MethodSettings) -> int:
    """Return how many parameters a method trains on a model of this config, by closed formula.

    With L layers of width h: LoRA L · Σ r·(inputs + outputs) over its targets; k bottleneck adapters a layer of size s
    L · k · (2·h·s + s + h); p-tuning with n tokens and an encoder of width e n·h + h·e + e + e² + e + e·h + h.
    """
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    if method.kind == "adapter":
        places = 2 if method.placement == "houlsby" else 1
        return layers * places * (2 * hidden * method.size + method.size + hidden)
    if method.kind == "ptuning":
        inner = method.encoder_size
        return method.virtual_tokens * hidden + 2 * hidden * inner + inner**2 + 2 * inner + hidden
    shapes = linear_shapes(config)
    return layers * sum(method.rank * sum(shapes[target]) for target in method.targets if target in shapes)


def computed_width(precision: str, compute: str = "auto") -> int:
    """Return the bytes of a number that is computed: of weights in 4 bits ``compute`` tells, 16 bits unless fp32."""
    return 4 if "fp32" in (precision, compute if precision == "nf4" else "") else 2


def weights_gib(config: Mapping[str, Any], precision: str, compute: str = "auto") -> float:
    """Return the memory of the frozen weights; in 4 or 8 bits only linear layers are, others in what is computed."""
    linear, other = count_weights(config)
    return (
        linear * _BYTES_PER_WEIGHT["int8" if compute == "int8" else precision]
        + other * computed_width(precision, compute)
    ) / GIB


def file_gib(config: Mapping[str, Any]) -> float:
    """Return the size of the model's files: in the dtype its config names, else in 16 bits."""
    name = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return sum(count_weights(config)) * (4 if name.endswith("float32") else 2) / GIB


def estimate_training(
    config: Mapping[str, Any],
    method: MethodSettings,
    precision: str,
    tokens: int,
    *,
    checkpoint_every: int | None,
    optimizer: str = "adamw_torch",
    compute: str = "auto",
    gpu: bool = False,
    few_logits: bool = False,
    kept_bytes: float | None = None,
) -> Footprint:
    """Return the peak memory of training with ``tokens`` tokens in one forward pass (micro-batch × longest example).

    Each ``checkpoint_every``-th layer recomputes its activations; None: no layer does. ``compute``: in what weights in
    nf4 are multiplied, and kept where they are not quantised; in int8 all of them are kept. ``gpu``: the memory of a
    GPU, where Python takes none;
    ``few_logits``: the loss looks at some rows of logits at a time, as it does for packs. ``kept_bytes``: what a layer
    was measured to keep for the backward pass, a token, instead of the count.
    """
    trainable = count_trainable(config, method) / GIB
    width = computed_width(precision, compute)
    weights = weights_gib(config, precision, compute)
    if precision == "nf4":
        unpacked = 1 if gpu else 3  # the matrices of a gated MLP, where it runs as one
        weights += unpacked * width * max(rows * columns for rows, columns in linear_shapes(config).values()) / GIB

    layers, hidden, inner = config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"]
    inputs = {"lora": len(method.targets), "adapter": 3, "ptuning": 0}[method.kind]
    fp32_copies = hidden * 4 * (2 + inputs)  # norms, and what a method casts to fp32
    per_layer = tokens * (kept_bytes or 8 * hidden * width + 4 * inner * width + fp32_copies)
    recomputed = count_recomputed(layers, checkpoint_every)
    kept = layers - recomputed + (1 if recomputed else 0)  # one is there at a time while it is recomputed
    activations = per_layer * kept + recomputed * tokens * hidden * width
    rows = min(tokens, rows_of_logits(config["vocab_size"])) if few_logits else tokens
    logits = rows * config["vocab_size"] * (width + 3 * 4)  # the output, its fp32 copy, its softmax and gradient
    return Footprint(
        runtime=_GPU_RUNTIME_GIB if gpu else _RUNTIME_GIB,
        weights=weights,
        adapter=8 * trainable,  # the weight and its gradient in fp32
        optimizer=_BYTES_OF_MOMENTS[optimizer] * trainable,
        activations=activations / GIB,
        logits=logits / GIB,
    )


def count_recomputed(layers: int, checkpoint_every: int | None) -> int:
    """Return how many of ``layers`` recompute their activations: each n-th, or none."""
    return math.ceil(layers / checkpoint_every) if checkpoint_every else 0


def checkpoint_gib(config: Mapping[str, Any], method: MethodSettings) -> float:
    """Return the disk space of one checkpoint: the adapter and AdamW's two moments in fp32, and the tokenizer."""
    return count_trainable(config, method) * 3 * 4 / GIB + 0.01
