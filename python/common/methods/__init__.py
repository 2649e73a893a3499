"""Parameter-efficient methods: added to a frozen base model, saved, resumed, loaded, swapped, and checked.

kinds        the one interface: add, save, resume, load, whatever the method is
lora         low-rank updates of linear layers, through peft; on a base in NF4 it is QLoRA
svd          LoRA that begins from the weights' largest singular values (PiSSA), through peft
bottleneck   adapters after attention and MLP, our own
soft_prompt  p-tuning: trained tokens before the prompt, through peft
fitting      does a method, or a saved adapter, fit a model? answered before any weight is loaded
merging      LoRA written into the weights, and what that changes
"""

from common.methods.fitting import check_adapter, check_method, why_no_packs
from common.methods.kinds import (
    add_method,
    count_parameters,
    describe_trainable,
    load_adapter,
    load_state,
    require_trained,
    save_adapter,
    save_state,
    saved_tensors,
)

__all__ = [
    "add_method",
    "check_adapter",
    "check_method",
    "count_parameters",
    "describe_trainable",
    "load_adapter",
    "load_state",
    "require_trained",
    "save_adapter",
    "save_state",
    "saved_tensors",
    "why_no_packs",
]
