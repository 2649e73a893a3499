"""P-tuning, through peft: trained tokens before the prompt, made by a small network.

Liu et al. 2021, arXiv 2103.10385. peft saves the finished tokens only, not the network that makes them, so a training
cannot go on from them: the state that our checkpoints keep holds the network too. Examples go through one by one, never
in packs, because peft puts the tokens before each sequence inside its own forward, and packs go around that.
"""

from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from common.settings import MethodSettings

STATE_FILE = "prompt_encoder.safetensors"


class SoftPrompt(torch.nn.Module):
    """A model behind its trained tokens, to be asked like any other, with a cache of keys and values or without.

    peft's own forward puts the tokens before every call, also when they are in the cache already. Here they are put
    before the first call that fills a cache; masks and positions speak of the real tokens only.
    """

    def __init__(self, prompted):
        super().__init__()
        self.prompted = prompted
        self.virtual_tokens = prompted.peft_config["default"].num_virtual_tokens
        self.enabled = True

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "prompted":
                raise
            return getattr(self.prompted, name)

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, **options):
        base = self.prompted.get_base_model()
        if not self.enabled:
            return base(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                **options,
            )
        if past_key_values is None:
            return self.prompted(input_ids=input_ids, attention_mask=attention_mask, **options)
        rows, count = input_ids.shape[0], self.virtual_tokens
        embeddings = base.get_input_embeddings()(input_ids)
        mask = torch.cat((attention_mask.new_ones(rows, count), attention_mask), dim=1)
        positions = position_ids + count
        if past_key_values.get_seq_length() == 0:
            prompt = self.prompted.get_prompt(rows).to(embeddings.dtype)
            embeddings = torch.cat((prompt, embeddings), dim=1)
            before = torch.arange(count, device=positions.device).expand(positions.shape[0], -1)
            positions = torch.cat((before, positions), dim=1)
        return base(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=past_key_values,
            **options,
        )

    @contextmanager
    def disable_adapter(self):
        """Within this context the model is the base."""
        self.enabled = False
        try:
            yield self
        finally:
            self.enabled = True


def add(model, settings: MethodSettings, base_name: str, base_folder: Path | None):
    from peft import PromptEncoderConfig, get_peft_model

    config = PromptEncoderConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=settings.virtual_tokens,
        encoder_hidden_size=settings.encoder_size,
    )
    prompted = get_peft_model(model, config)
    prompted.peft_config["default"].base_model_name_or_path = base_name
    prompted.first_tokens = _encoder(prompted).embedding.weight.detach().clone()
    return prompted


def save(model, folder: Path) -> None:
    model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def save_state(model, folder: Path) -> None:
    save(model, folder)
    save_file({name: tensor.contiguous() for name, tensor in _encoder(model).state_dict().items()}, folder / STATE_FILE)


def load_state(model, folder: Path) -> None:
    _encoder(model).load_state_dict(load_file(folder / STATE_FILE))


def tensors(model) -> dict[str, torch.Tensor]:
    return {"prompt_embeddings": model.get_prompt_embedding_to_save("default")}


def load(model, folder: Path) -> SoftPrompt:
    from peft import PeftModel

    return SoftPrompt(PeftModel.from_pretrained(model, folder, is_trainable=False, local_files_only=True))


def find_untrained(model) -> list[str]:
    same = torch.equal(_encoder(model).embedding.weight, model.first_tokens.to(_encoder(model).embedding.weight.device))
    return ["the virtual tokens"] if same else []


def _encoder(model):
    return model.prompt_encoder["default"]
