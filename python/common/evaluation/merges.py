"""LoRA of the candidates written into the weights: is it the same model, and what did NF4 change?"""

from collections.abc import Sequence

from common.data import Loaded
from common.evaluation.candidates import Candidate

TRIED_ON = 8  # test items: their prompts and reference answers go through the models


def check_merges(candidates: Sequence[Candidate], test: Loaded, max_length_tokens: int) -> dict[str, dict]:
    """Return name → what merging changes, for each candidate that is LoRA. UserError (70) when it is another model.

    They are merged in the precision that the base is judged in, the first candidate's.
    """
    from common.chat import encode_examples
    from common.methods.merging import merge_adapter
    from common.models import load_tokenizer

    found = {}
    for candidate in candidates:
        if candidate.kind != "lora":
            continue
        tried, tokenizer = test.examples[:TRIED_ON], load_tokenizer(candidate.base)
        encoded = encode_examples(tokenizer, tried, max_length_tokens=max_length_tokens)
        texts = [example.input_ids for example in encoded]
        merge = merge_adapter(
            candidate.base,
            candidate.adapter,
            texts,
            precision=candidates[0].precision,
            trained_on_nf4=candidate.precision == "nf4",
        )
        found[candidate.name] = merge.as_dict()
    return found
