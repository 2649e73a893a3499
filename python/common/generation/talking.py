"""A conversation with a local model whose answer is shown while it is being written."""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from common.data.examples import Message
from common.errors import ExitCode, Problem, UserError
from common.generation.answers import Decoding, Request, without_thought
from common.generation.arms import find_local
from common.generation.local import LocalArm, LocalModel, as_trained, find_training


@dataclass
class Speaker:
    """A model in a conversation. ``adapter`` is the name its weights have in the model, None for the plain base."""

    name: str
    local: LocalModel
    adapter: str | None
    decoding: Decoding

    def reply(self, history: list[Message], prompt: str) -> Iterator[str]:
        """Yield the answer to ``prompt`` piece by piece; both are added to ``history`` once it is whole."""
        from common.chat import encode_prompt

        messages = [*history, Message("user", prompt)]
        limit, length = self.local.max_positions, len(encode_prompt(self.local.tokenizer, messages))
        if length >= limit:
            problem = Problem(f"a conversation of {length} tokens", f"{self.name} reads at most {limit}", "begin anew")
            raise UserError(problem, ExitCode.DATA)
        (row,) = LocalArm(self.name, self.local).rows([Request(tuple(messages))], self.decoding)
        model = self.local.model
        if self.adapter:
            model.set_adapter(self.adapter)
        plain = self.adapter is None and hasattr(model, "disable_adapter")
        pieces = []
        with model.disable_adapter() if plain else nullcontext():
            for piece in self._stream(row.prompt, row.max_new_tokens):
                pieces.append(piece)
                yield piece
        history += [messages[-1], Message("assistant", without_thought("".join(pieces)))]

    def _stream(self, prompt: list[int], max_new_tokens: int) -> Iterator[str]:
        """Yield what transformers generates in a thread of its own, character by whole character."""
        import torch
        from transformers import TextIteratorStreamer

        streamer = TextIteratorStreamer(self.local.tokenizer, skip_prompt=True, skip_special_tokens=True)
        ids = torch.tensor([prompt], device=self.local.model.device)
        sampling = {"do_sample": True, "temperature": self.decoding.temperature} if self.decoding.temperature else {}
        options = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "max_new_tokens": max_new_tokens,
            "eos_token_id": self.local.stop_ids,
            "pad_token_id": self.local.tokenizer.pad_token_id,
            "streamer": streamer,
            **(sampling or {"do_sample": False}),
        }
        torch.manual_seed(self.decoding.seed)
        with ThreadPoolExecutor(1) as thread:
            generated = thread.submit(self.local.model.generate, **options)
            generated.add_done_callback(lambda _: streamer.end())  # also after an error, which result() raises
            yield from streamer
            generated.result()


def choose_way(models: Sequence[str], precision: str | None = None) -> dict[str, str]:
    """Return how all of ``models`` compute: as the first that tells of its training did, else in fp32.

    Where its precision is not to be had here, in fp32 with a note. Raises UserError (69, 78) where ``precision`` is
    not.
    """
    training = next(filter(None, (find_training(Path(model)) for model in models)), {})
    if precision or not training:
        return as_trained(training | {"model": {"precision": precision or "fp32"}})
    try:
        return as_trained(training)
    except UserError as error:
        print(f"note: {error.problems[0].what}: fp32 in its place", file=sys.stderr)
        return as_trained(training | {"model": {"precision": "fp32"}})


def open_speaker(spec: str, decoding: Decoding, *, models: dict | None = None, **how: str) -> Speaker:
    """Return the model that ``spec`` names, ready to talk. ``models`` keeps loaded bases, so that two share one.

    ``how`` it computes: precision, device and compute of :class:`LocalModel`.
    """
    base, adapter = find_local(spec)
    models = {} if models is None else models
    name = Path(spec).name if Path(spec).exists() else spec
    if base not in models:
        local = LocalModel(base, adapter=adapter, **how)
        models[base] = local
        return Speaker(name, local, "default" if adapter else None, decoding)
    local = models[base]
    if adapter is None:
        return Speaker(name, local, None, decoding)
    label = f"second-{len(models)}"
    _add_adapter(local, adapter, label)
    return Speaker(name, local, label, decoding)


def _add_adapter(local: LocalModel, adapter: Path, label: str) -> None:
    """Load one more adapter beside the one that is there, or beside none."""
    if local.adapter is None:
        from peft import PeftModel

        local.model = PeftModel.from_pretrained(local.model, adapter, adapter_name=label, local_files_only=True).eval()
    else:
        local.model.load_adapter(adapter, adapter_name=label, local_files_only=True)
        local.model.eval()
