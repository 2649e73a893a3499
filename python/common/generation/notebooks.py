"""For a notebook: a sentence to a prompt, and a prompt to the model's answer, as training and judging do it."""

from collections.abc import Sequence


def encode_prompt(tokenizer, sentence: str) -> list[int]:
    """Return the token ids of a conversation in which the user said ``sentence`` and the model is to answer.

    The ids are those that training began its examples with. Raises UserError (78) without a chat template.
    """
    from common import chat
    from common.data.examples import Message

    return chat.encode_prompt(tokenizer, [Message("user", sentence)])


def generate(model, tokenizer, prompt: Sequence[int] | str, max_new_tokens: int = 64) -> str:
    """Return the model's answer to ``prompt``, most likely token by token, without control tokens.

    ``prompt`` is what :func:`encode_prompt` returned, or the sentence itself. The model's mode is as before afterwards.
    """
    import torch

    from common import chat

    ids = encode_prompt(tokenizer, prompt) if isinstance(prompt, str) else list(prompt)
    inputs = torch.tensor([ids], device=model.device)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            output = model.generate(
                input_ids=inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                eos_token_id=chat.stop_token_ids(tokenizer),
                pad_token_id=tokenizer.pad_token_id,
            )
    finally:
        model.train(was_training)
    return tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True).strip()
