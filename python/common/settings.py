"""What a recipe can set: every number with its help text, its default and its limits, by group.

How a recipe is read from its files and the command line is in :mod:`common.recipes`.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from common.errors import Problem
from common.schema import setting


@dataclass
class ModelSettings:
    """Which base model, and in which precision its weights are kept."""

    name: str = setting("base model: a folder, or a hub id fetched by `make download`", "recipes/demo/model")
    revision: str | None = setting("the hub's commit hash of the base model; with another model, none unless given")
    precision: Literal["auto", "bf16", "fp16", "fp32", "nf4"] = setting(
        "how the frozen weights are kept in memory", "auto"
    )
    compute: Literal["auto", "bf16", "fp16", "fp32", "int8"] = setting(
        "in what weights kept in nf4 are multiplied; int8: a CPU trains with weights and products rounded to 8 bits",
        "auto",
    )


@dataclass
class DataSettings:
    """Which examples, and how long they may be."""

    train: str = setting(
        "training examples (JSONL, JSON, CSV, TSV or Parquet)", "recipes/demo/data/train.jsonl", path=True
    )
    validation: str | None = setting("validation examples", "recipes/demo/data/validation.jsonl", path=True)
    columns: list[str] | None = setting("where the parts of a row are, as in prompt=Question; found out unless given")
    max_length_tokens: int = setting("longest example in tokens, prompt and answer", 2048, low=8, high=1_000_000)
    on_overlong: Literal["error", "drop", "truncate-prompt"] = setting("what to do with a longer one", "error")
    on_bad_row: Literal["error", "drop"] = setting("what to do with a row that cannot be used", "error")
    loss_on: Literal["assistant", "all"] = setting("which tokens are trained", "assistant")
    allow_empty: bool = setting("accept rows with an empty answer", False)
    allow_duplicates: bool = setting("accept a file in which many rows stand twice", False)
    allow_leak: bool = setting("accept validation rows, or passages of 13 words, that are in the training data", False)
    allow_secrets: bool = setting("accept rows that hold what looks like a key or token", False)


@dataclass
class MethodSettings:
    """The parameter-efficient method and its shape. Each setting but the kind belongs to one kind."""

    kind: Literal["lora", "adapter", "ptuning"] = setting("parameter-efficient method", "lora")
    rank: int = setting("LoRA rank r", 8, low=1, high=1024, of="lora")
    alpha: float = setting("LoRA alpha; the update is scaled by alpha / r", 32, above=0, of="lora")
    dropout: float = setting("dropout on the LoRA input", 0.1, low=0, high=0.9, of="lora")
    targets: list[str] = setting(
        "names of the linear layers to adapt", ["q_proj", "k_proj", "v_proj", "o_proj"], of="lora"
    )
    init: Literal["zero", "svd"] = setting(
        "how LoRA begins: B zero, or A and B from the weights' largest singular values (PiSSA)", "zero", of="lora"
    )
    size: int = setting("width of a bottleneck adapter", 64, low=1, high=65_536, of="adapter")
    placement: Literal["houlsby", "pfeiffer"] = setting(
        "adapters after attention and MLP, or after the MLP alone", "houlsby", of="adapter"
    )
    activation: Literal["gelu", "relu", "silu"] = setting("between an adapter's projections", "gelu", of="adapter")
    virtual_tokens: int = setting("trained tokens put before every prompt", 20, low=1, high=10_000, of="ptuning")
    encoder_size: int = setting("width of the network that makes them", 128, low=1, high=65_536, of="ptuning")

    def __post_init__(self):
        self.given: dict[str, str] = {}  # setting → who set it, to find what belongs to another kind

    def own_settings(self) -> dict[str, Any]:
        """Return the kind and the settings that belong to it."""
        return {f.name: getattr(self, f.name) for f in fields(self) if self.kind in (f.metadata["of"] or self.kind)}

    def find_strangers(self) -> list[Problem]:
        """Return a problem for each setting that was given and belongs to another kind of method."""
        own = self.own_settings()
        return [
            Problem(
                f"{label} is nothing that kind {self.kind} has",
                f"{self.kind} has: {', '.join(name for name in own if name != 'kind')}",
            )
            for name, label in self.given.items()
            if name not in own
        ]


@dataclass
class TrainingSettings:
    """How it is trained. Batch sizes count examples, steps are optimizer steps."""

    epochs: float | None = setting(
        "passes over the training examples; null: chosen from their number", 3, above=0, high=10_000
    )
    max_steps: int | None = setting("stop after this many optimizer steps instead of after the epochs", low=1)
    micro_batch: int = setting("examples per forward pass", 1, low=1, high=4096)
    gradient_accumulation: int = setting("forward passes per optimizer step", 8, low=1, high=65_536)
    learning_rate: float = setting("peak learning rate", 2e-4, above=0, high=1)
    scheduler: Literal["cosine", "linear", "constant"] = setting("learning-rate schedule after warm-up", "cosine")
    warmup_steps: int = setting("optimizer steps of linear warm-up", 10, low=0)
    warmup_ratio: float | None = setting("share of all steps to warm up in, instead of warmup_steps", low=0, high=0.999)
    optimizer: Literal["adamw_torch", "paged_adamw_8bit"] = setting(
        "AdamW in fp32, or with moments in 8 bits that may leave a full GPU", "adamw_torch"
    )
    weight_decay: float = setting("AdamW weight decay", 0.01, low=0, high=1)
    max_grad_norm: float = setting("gradients are clipped to this norm", 1.0, above=0)
    seed: int = setting("seed of initialisation, dropout and data order", 42, low=0, high=2**32 - 1)
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("where to compute", "auto")
    threads: int | None = setting("CPU threads (all usable cores unless given)", low=1, high=4096)
    deepspeed: str | None = setting("DeepSpeed's configuration, for a recipe that several processes train", path=True)
    ranks: int = setting("processes on each node under DeepSpeed, one for each GPU", 1, low=1, high=1024)
    nodes: int = setting("machines that train together", 1, low=1, high=4096)
    activation_checkpointing: Literal["auto", "on", "off"] = setting(
        "recompute activations in the backward pass to save memory", "auto"
    )
    checkpoint_every_n_layers: int | None = setting("of the layers, recompute each n-th only", low=1)
    packing: Literal["auto", "on", "off"] = setting(
        "examples of a step laid end to end, their common beginning computed once; off: one by one", "auto"
    )
    pack_tokens: int = setting("longest pack in tokens", 3072, low=64, high=1_000_000)
    group_by_length: bool = setting("examples of similar length share a step", False)
    probe_memory: bool = setting("try the longest examples first, with a smaller micro-batch until they fit", False)
    log_every_steps: int = setting("optimizer steps between two logged losses", 1, low=1)
    eval_every_steps: int | None = setting("optimizer steps between two evaluations, besides each epoch's end", low=1)
    save_every_minutes: float = setting("longest time between two checkpoints", 30, above=0)
    keep_checkpoints: int = setting("how many committed checkpoints are kept", 2, low=2)
    keep_epochs: bool = setting("keep an adapter of every epoch in checkpoint-epoch-N/", False)


@dataclass
class EvaluationSettings:
    """How the finished model is judged against the plain one and a better prompt."""

    compare_when_done: bool = setting("compare as soon as a training in the foreground is done", False)
    demonstrations: int = setting("training examples shown to the prompted model", 1, low=0, high=64)
    program: str | None = setting("better prompt found by `make optimize`, used instead of demonstrations", path=True)
    max_new_tokens: int = setting("an answer is cut there", 1024, low=1, high=1_000_000)
    metric: str = setting("how an answer is scored, as in module:function", "common.scoring:score_ba")


@dataclass
class OutputSettings:
    """Where the run is written."""

    folder: str | None = setting("another folder for the run; runs/<name> becomes a link to it", path=True)


@dataclass
class Recipe:
    """A whole recipe: its name, the command that cooks it, and its settings by group."""

    name: str
    command: str
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    method: MethodSettings = field(default_factory=MethodSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    output: OutputSettings = field(default_factory=OutputSettings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain nested dicts, as kept in run.json; of the method, only what its kind has."""
        return asdict(self) | {"method": self.method.own_settings()}


GROUPS: dict[str, type] = {
    "model": ModelSettings,
    "data": DataSettings,
    "method": MethodSettings,
    "training": TrainingSettings,
    "evaluation": EvaluationSettings,
    "output": OutputSettings,
}
