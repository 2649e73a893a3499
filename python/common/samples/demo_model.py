"""The demo base model's shape and tokenizer: a Mistral small enough to be shipped and trained on two CPU cores."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

VOCABULARY_SIZE = 2048
SPECIAL_TOKENS = ("<s>", "</s>", "<pad>", "[INST]", "[/INST]")
MAX_POSITIONS = 4096
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}

# What is merged into one token at most: a line break with its indentation and list dash, a word with the space before
# it (names_of_fields count as one), zeros or one other digit (so FR001 and FR009 differ in one token), a run of signs.
PRETOKENS = r"\n+ *(?:[-*] )?| ?[\p{L}_]+|0+|\d| ?[^\s\p{L}\p{N}_]+|\s"

# Mistral's format, "<s>[INST] … [/INST] …</s>". The space before an answer counts as the prompt's, so that what the
# model generates is the answer and nothing else.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) or message.role not in ('user', 'assistant') %}
        {{- raise_exception('Roles must alternate: user, assistant, user, assistant, …') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + message.content + ' [/INST]' }}
        {%- if not loop.last or add_generation_prompt %}
            {{- ' ' }}
        {%- endif %}
    {%- else %}
        {{- message.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""


def train_tokenizer(texts: Iterable[str]):
    """Train the byte-level BPE tokenizer on ``texts``; return it as a transformers fast tokenizer.

    Like Mistral's it adds <s> by itself when text is encoded with special tokens; conversations get theirs from the
    chat template.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos, eos, pad, *instruction_marks = SPECIAL_TOKENS
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=instruction_marks,
        model_max_length=MAX_POSITIONS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def new_model(tokenizer, seed: int, **shape):
    """A Mistral of the demo's shape with weights drawn by ``seed``, in float32. ``shape`` replaces parts of it."""
    import torch
    from transformers import GenerationConfig, MistralConfig, MistralForCausalLM

    torch.manual_seed(seed)
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=MAX_POSITIONS,
            sliding_window=None,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **{**SHAPE, **shape},
        )
    )
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=512,
        do_sample=False,
    )
    return model


def save_model(model, tokenizer, folder: Path, facts: Mapping[str, object]) -> None:
    """Write weights (bfloat16), configuration, tokenizer and ``pretraining.json`` (``facts``) to ``folder``."""
    import torch

    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (folder / "pretraining.json").write_text(text, encoding="utf-8")
