"""Tokenizers the chat tests encode with: Mistral's real vocabulary, and small ones of the other families, made here."""

from functools import cache
from pathlib import Path

import mistral_common
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

# Mistral-Instruct's template, with the space that current tokenizer files want before each turn, and without it.
MISTRAL_SPACED = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ ' [INST] ' }}"
    "{% if loop.index0 == 1 and messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}"
    "{{ m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}"
    "{% endfor %}"
)
MISTRAL_BARE = MISTRAL_SPACED.replace("' [INST] '", "'[INST] '").replace("' ' + m", "m")
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim }}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Reads its answers for a thought, as Qwen3's template does; takes line breaks off the beginning of the last answer, and
# writes an empty thought before it.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% set said = m.content.split('</think>')[-1] %}"
    "{% if loop.last %}{{ '<think>\n\n</think>\n\n' + said.lstrip('\n') }}{% else %}{{ said }}{% endif %}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
DEMO = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
PLAIN_WORDS = (
    "{% for m in messages %}{{ 'Question: ' if m.role == 'user' else 'Answer: ' }}{{ m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Answer:' }}{% endif %}"
)


@cache
def mistral_tokenizer(template: str = MISTRAL_SPACED, prefix: str = "metaspace") -> PreTrainedTokenizerFast:
    """Mistral v0.1's tokenizer, from the sentencepiece file of mistral-common, in either form of its fast file."""
    folder = Path(mistral_common.__file__).parent / "data"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model.v1"))
    size = pieces.get_piece_size()
    vocabulary = {pieces.id_to_piece(i): i for i in range(size)}
    # Sentencepiece joins the pair whose result has the best score; of equal results, the one with the earlier halves.
    merges = sorted(
        (-pieces.get_score(i), vocabulary[piece[:cut]], vocabulary[piece[cut:]], piece[:cut], piece[cut:])
        for piece, i in vocabulary.items()
        for cut in range(1, len(piece))
        if piece[:cut] in vocabulary and piece[cut:] in vocabulary
    )
    backend = Tokenizer(
        models.BPE(vocabulary, [(a, b) for *_, a, b in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    if prefix == "metaspace":
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(_specials("<unk>", "<s>", "</s>"))
    return _wrap(backend, template, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@cache
def byte_level_tokenizer(template: str, *specials: str, **names: str) -> PreTrainedTokenizerFast:
    """A small byte-level BPE tokenizer with these control tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    text = ["the quick brown fox jumps over the lazy dog, user assistant system Question Answer"] * 4
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator(text, trainer)
    backend.add_special_tokens(_specials(*specials))
    return _wrap(backend, template, **names)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    specials = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
    return byte_level_tokenizer(LLAMA_3, *specials, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def chatml_tokenizer(template: str = CHATML) -> PreTrainedTokenizerFast:
    return byte_level_tokenizer(
        template, "<|endoftext|>", "<|im_start|>", "<|im_end|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )


def demo_tokenizer(template: str = DEMO) -> PreTrainedTokenizerFast:
    return byte_level_tokenizer(template, "<s>", "</s>", "[INST]", "[/INST]", bos_token="<s>", eos_token="</s>")


@cache
def phi_tokenizer() -> PreTrainedTokenizerFast:
    """Phi-3's kind: sentencepiece, with control tokens that swallow the white space after them."""
    backend = Tokenizer.from_str(mistral_tokenizer(prefix="prepend").backend_tokenizer.to_str())
    backend.add_special_tokens([AddedToken("<|endoftext|>", special=True, normalized=False)])
    names = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False, rstrip=True) for name in names])
    return _wrap(backend, PHI_3, bos_token="<s>", eos_token="<|endoftext|>", pad_token="<|endoftext|>")


def _specials(*names: str) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False) for name in names]


def _wrap(backend: Tokenizer, template: str, **names: str) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **names)
    tokenizer.chat_template = template
    return tokenizer
