"""Two measurements beside the trainings: what the machine can do, and whether packs are exact."""

import time


def matrix_rate_tflops(device: str = "cpu", repeats: int = 9) -> float:
    """Return the median rate in TFLOP/s of bf16 products [tokens, width] · [width, width] on a GPU or on all cores."""
    import torch

    from common.hardware import pick_threads

    torch.set_num_threads(pick_threads().value)
    tokens, width = (8192, 8192) if device == "cuda" else (512, 4096)
    left, right = (torch.randn(rows, width, device=device, dtype=torch.bfloat16) for rows in (tokens, width))
    seconds = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        left @ right.T
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * tokens * width * width / sorted(seconds[2:])[repeats // 2] / 1e12


def gradient_difference() -> float:
    """Return the relative difference in fp32 between the gradients of packs and of one-by-one training.

    On a two-layer Mistral of width 128 with LoRA in lean layers, for sixteen ragged examples with a common prefix, in
    so many packs that it is computed once, before them.
    """
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    from common import lean_layers, packed_model
    from common.chat import Encoded
    from common.methods import add_method
    from common.models import quieten_libraries
    from common.packing import plan_packs
    from common.settings import MethodSettings

    quieten_libraries()
    torch.manual_seed(0)
    sizes = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2}
    model = MistralForCausalLM(MistralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
    model = add_method(model, MethodSettings(dropout=0), "probe")
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    prefix = torch.randint(3, 512, (40,)).tolist()
    examples = []
    for own in [*range(5, 85, 10)] * 2:
        ids = prefix + torch.randint(3, 512, (own,)).tolist()
        examples.append(Encoded(ids, [index >= len(ids) - own // 2 - 1 for index in range(len(ids))]))

    def gradient() -> torch.Tensor:
        flat = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.requires_grad])
        model.zero_grad()
        return flat

    for example in examples:
        ids = torch.tensor([example.input_ids])
        labels = torch.where(torch.tensor([example.completion_mask]), ids, -100)
        model(input_ids=ids, labels=labels, num_items_in_batch=1).loss.backward()
    reference = gradient()
    packed_model.enable_packs(model)
    lean_layers.use_lean_layers(model)
    packs = plan_packs(examples, 120, begin_once=True)  # 80 tokens beside the prefix: eight packs, or more
    with packed_model.begin(model, packs) as beginning:
        for pack in packs:
            packed_model.sum_loss(model, pack, beginning=beginning).backward()
    return ((gradient() - reference).norm() / reference.norm()).item()
