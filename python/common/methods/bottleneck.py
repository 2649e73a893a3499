"""Bottleneck adapters: a small network after a sublayer, in series, whose output is added to what it was given.

  adapter(x) = x + up(activation(down(x)))        down: width → size, up: size → width, up begins at zero

Houlsby et al. 2019 (arXiv 1902.00751) place one after attention and one after the MLP of each layer, before the
residual is added; Pfeiffer et al. 2021 (arXiv 2005.00247) only the one after the MLP. Because up begins at zero, the
model computes exactly what the base computes until the first step.

The base is not touched: adapters are hooked to its sublayers, so they can be switched off, swapped and taken away.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from common.errors import ExitCode, Problem, UserError
from common.settings import MethodSettings

SUBLAYERS = {"houlsby": ("self_attn", "mlp"), "pfeiffer": ("mlp",)}
ACTIVATIONS = {"gelu": torch.nn.functional.gelu, "relu": torch.nn.functional.relu, "silu": torch.nn.functional.silu}


@dataclass(frozen=True)
class BottleneckConfig:
    """The shape of the adapters, as in adapter_config.json. ``width`` is that of the model's hidden states."""

    width: int
    layers: int
    size: int = 64
    placement: str = "houlsby"
    activation: str = "gelu"
    base_model_name_or_path: str = ""
    peft_type: str = "BOTTLENECK"


class Bottleneck(torch.nn.Module):
    """One adapter, in fp32. Takes and returns hidden states [..., width] of any precision."""

    def __init__(self, config: BottleneckConfig):
        super().__init__()
        self.down = torch.nn.Linear(config.width, config.size)
        self.up = torch.nn.Linear(config.size, config.width)
        torch.nn.init.zeros_(self.up.weight)
        torch.nn.init.zeros_(self.up.bias)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        change = self.up(self.activation(self.down(hidden.to(self.down.weight.dtype))))
        return hidden + change.to(hidden.dtype)


class BottleneckModel(torch.nn.Module):
    """A frozen causal model with adapters hooked to its sublayers. All else is the base model's."""

    def __init__(self, base, config: BottleneckConfig):
        super().__init__()
        self.base = base.requires_grad_(False)
        self._hf_peft_config_loaded = True  # so that transformers' Trainer lets a quantised base be trained on
        self.enabled = True
        self._attach(config, self._build(config))

    def _build(self, config: BottleneckConfig) -> torch.nn.ModuleDict:
        if config.width != self.base.config.hidden_size:
            raise ValueError(f"adapters of width {config.width}, hidden states of {self.base.config.hidden_size}")
        adapters = torch.nn.ModuleDict()
        for name, sublayer in find_places(self.base, config.placement):
            adapters[name] = Bottleneck(config).to(next(sublayer.parameters()).device)
        return adapters

    def _attach(self, config: BottleneckConfig, adapters: torch.nn.ModuleDict) -> None:
        self.adapter_config, self.adapters = config, adapters
        self._hooks = [
            sublayer.register_forward_hook(self._hook(adapters[name]))
            for name, sublayer in find_places(self.base, config.placement)
        ]

    def _hook(self, adapter: Bottleneck):
        def adapt(_sublayer, _inputs, output):
            if not self.enabled:
                return output
            if isinstance(output, tuple):  # attention returns its weights, too
                return adapter(output[0]), *output[1:]
            return adapter(output)

        return adapt

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base":
                raise
            return getattr(self.base, name)

    def forward(self, *args, **options):
        return self.base(*args, **options)

    def get_base_model(self):
        return self.base

    @contextmanager
    def disable_adapter(self):
        """Within this context the model is the base."""
        self.enabled = False
        try:
            yield self
        finally:
            self.enabled = True

    def remove(self):
        """Take the adapters away and return the base model, which is as it was."""
        for hook in self._hooks:
            hook.remove()
        self.adapters, self._hooks = torch.nn.ModuleDict(), []
        return self.base

    def swap(self, folder: Path) -> None:
        """Replace the adapters by those saved in ``folder``; the base stays, and it goes on as it was: in training or
        not, trainable or not. ValueError when they do not fit; those that are there then stay.
        """
        config = read_config(folder)
        adapters = self._build(config)
        put(load_file(folder / "adapter_model.safetensors"), adapters)
        adapters.requires_grad_(any(weight.requires_grad for weight in self.adapters.parameters()))
        self.remove()
        self._attach(config, adapters.train(self.training))


def put(tensors: dict[str, torch.Tensor], adapters: torch.nn.ModuleDict) -> None:
    """Copy ``tensors`` into the adapters; ValueError unless names and shapes are theirs."""
    own = adapters.state_dict()
    shapes, given = ({name: tensor.shape for name, tensor in group.items()} for group in (own, tensors))
    wrong = sorted(name for name in own.keys() | tensors.keys() if shapes.get(name) != given.get(name))
    if wrong:
        raise ValueError(f"{len(wrong)} tensors are missing, unknown or of another shape, {wrong[0]} for one")
    adapters.load_state_dict(tensors)


def find_places(model, placement: str) -> Iterator[tuple[str, torch.nn.Module]]:
    """Yield "layer-sublayer" and the module after which an adapter goes. UserError (78) for a model without such."""
    layers = getattr(getattr(model, "model", None), "layers", None)
    if layers is None or not all(hasattr(layer, name) for layer in layers for name in SUBLAYERS[placement]):
        raise UserError(
            Problem(
                f"bottleneck adapters do not know the layers of {type(model).__name__}",
                "layers with self_attn and mlp, as Mistral, Llama, Phi-3 and Qwen have them",
                "use method.kind lora",
            ),
            ExitCode.CONFIG,
        )
    for number, layer in enumerate(layers):
        for name in SUBLAYERS[placement]:
            yield f"{number}-{name}", getattr(layer, name)


def read_config(folder: Path) -> BottleneckConfig:
    """Return the config saved in ``folder``; ValueError for keys or values it cannot have."""
    try:
        config = BottleneckConfig(**json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))
    except TypeError as error:
        raise ValueError(str(error)) from None
    if config.placement not in SUBLAYERS or config.activation not in ACTIVATIONS:
        raise ValueError(f"placement {config.placement}, activation {config.activation}: unknown")
    return config


def add(model, settings: MethodSettings, base_name: str, base_folder: Path | None) -> BottleneckModel:
    shape = (model.config.hidden_size, model.config.num_hidden_layers)
    config = BottleneckConfig(*shape, settings.size, settings.placement, settings.activation, base_name)
    return BottleneckModel(model, config)


def save(model: BottleneckModel, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(model.adapter_config), indent=2, sort_keys=True) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
    save_file(tensors(model), folder / "adapter_model.safetensors", metadata={"format": "pt"})


save_state = save


def load_state(model: BottleneckModel, folder: Path) -> None:
    put(load_file(folder / "adapter_model.safetensors"), model.adapters)


def tensors(model: BottleneckModel) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.adapters.state_dict().items()}


def load(model, folder: Path) -> BottleneckModel:
    adapted = BottleneckModel(model, read_config(folder))
    load_state(adapted, folder)
    return adapted


def find_untrained(model: BottleneckModel) -> list[str]:
    return [name for name, weight in tensors(model).items() if name.endswith("up.weight") and not torch.any(weight)]
