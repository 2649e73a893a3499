"""Shapes of models that recipes and measurements name: what their config.json says of sizes, and nothing else.

With one of them a training can be planned, and a model with random weights written, before anything is downloaded.
"""

import json
from pathlib import Path
from typing import Any

from common import model_files, models
from common.runs import ROOT
from common.settings import ModelSettings

DEMO_MODEL = ROOT / "recipes" / "demo" / "model"
SHAPES: dict[str, dict[str, Any]] = {
    "mistral-7b": {
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
        "sliding_window": None,
        "rms_norm_eps": 1e-5,
    },
    "phi-3-mini": {
        "model_type": "phi3",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32064,
        "max_position_embeddings": 4096,
        "sliding_window": 2047,
        "rms_norm_eps": 1e-5,
        "pad_token_id": 32000,
    },
    "llama-3.2-3b": {
        "model_type": "llama",
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
    },
    "tinyllama-1.1b": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
    },
    "smollm2-135m": {
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
    },
}
HUB_MODELS = {
    "mistralai/Mistral-7B-Instruct-v0.1": "mistral-7b",
    "mistralai/Mistral-7B-Instruct-v0.2": "mistral-7b",
    "microsoft/Phi-3-mini-4k-instruct": "phi-3-mini",
    "meta-llama/Llama-3.2-3B-Instruct": "llama-3.2-3b",
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": "tinyllama-1.1b",
    "HuggingFaceTB/SmolLM2-135M-Instruct": "smollm2-135m",  # pragma: allowlist secret
}


def find_shape(settings: ModelSettings) -> tuple[dict[str, Any], str]:
    """Return the config of a model of which no weights need be here, and where it comes from.

    Raises UserError as :func:`common.model_files.find_model` does when nothing here knows the model's shape.
    """
    for folder in (Path(settings.name), ROOT / settings.name, model_files.model_folder(settings.name)):
        if (folder / "config.json").is_file():
            return model_files.read_config(folder), str(folder / "config.json")
    if settings.name in HUB_MODELS:
        return dict(SHAPES[HUB_MODELS[settings.name]]), f"the known shape of {HUB_MODELS[settings.name]}"
    return model_files.read_config(model_files.find_model(settings)), "the hub's cache"


def write_stand_in(settings: ModelSettings, folder: Path) -> list[str]:
    """Write config.json and a tokenizer into ``folder`` in place of a model; return what they are assumed to be.

    Without the model's own tokenizer it is that of the demo model, whose small vocabulary makes more tokens of a text.
    """
    config, origin = find_shape(settings)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assumed = [f"the model is not on this machine: its shape is {origin}"]
    own = Path(origin).parent if origin.endswith("config.json") else None
    from_own = own is not None and (own / "tokenizer.json").is_file()
    models.copy_tokenizer(own if from_own else DEMO_MODEL, folder)
    if not from_own:
        assumed.append("its tokenizer is not here: tokens are counted with the demo model's, which makes more of them")
    return assumed
