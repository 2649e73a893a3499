"""Does a method, or a saved adapter, fit a model? Answered from the model's config, before any weight is loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import ExitCode, Problem, UserError
from common.model_files import read_config
from common.settings import MethodSettings, Recipe
from common.weights import build_skeleton, read_shapes


def check_method(recipe: Recipe, folder: Path) -> str:
    """Return what the recipe's method will train on the model in ``folder``.

    Raises UserError (78), with what would be right, for targets that match nothing, a rank beyond the weights, weights
    in int8 that would be changed, layers that adapters do not know, and tokens that leave no room for the examples.
    """
    from common.methods.kinds import count_by_formula
    from common.methods.lora import check_targets, linear_layers

    method, config = recipe.method, read_config(folder)
    model = build_skeleton(folder)
    if method.kind == "lora":
        layers = linear_layers(model)
        check_targets(layers, method.targets)
        if method.init == "svd":
            _check_rank(model, layers, method)
            _check_compute(recipe)
        where = ", ".join(method.targets) + (", begun by SVD" if method.init == "svd" else "")
    elif method.kind == "adapter":
        from common.methods.bottleneck import find_places

        where = f"{method.placement}, {sum(1 for _ in find_places(model, method.placement))} of size {method.size}"
    else:
        _check_room(recipe, config)
        where = f"{method.virtual_tokens} virtual tokens"
    return f"{method.kind}: {count_by_formula(model, method):,} parameters to train ({where})"


def why_no_packs(method: MethodSettings) -> str | None:
    """Return why a method cannot train on packs of examples, or None when it can."""
    if method.kind != "ptuning":
        return None
    return "p-tuning puts its tokens before each example inside peft's forward, which a pack of several goes around"


def check_adapter(adapter: Path, folder: Path) -> None:
    """Raise UserError (78) unless the adapter's tensors fit the model in ``folder``, by name and shape."""
    from common.methods.kinds import WEIGHTS_FILE, kind_of

    kind = kind_of(adapter)
    shapes = read_shapes(adapter / WEIGHTS_FILE)
    wrong = _FITS[kind](build_skeleton(folder), shapes, adapter)
    if wrong:
        config = read_config(folder)
        raise UserError(
            Problem(
                f"the adapter in {adapter} is not one of {folder.name}: {wrong}",
                f"one for {config.get('num_hidden_layers')} layers of width {config.get('hidden_size')} "
                f"({config.get('model_type')})",
                "name the base model it was trained on",
            ),
            ExitCode.CONFIG,
        )


def _misfit_lora(model, shapes: Mapping[str, tuple[int, ...]], adapter: Path) -> str | None:
    modules = dict(model.named_modules())
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in shapes.items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        place, is_lora, part = plain.removesuffix(".weight").rpartition(".lora_")
        if not is_lora:  # trained besides: a head, biases, single tokens
            if plain not in own and ".token_adapter." not in plain:
                return f"there is no tensor {plain}"
            if shape != own.get(plain, shape):
                return f"{name} is {list(shape)}, the model's is {list(own[plain])}"
            continue
        layer = modules.get(place)
        if layer is None:
            return f"there is no layer {place}"
        if not hasattr(layer, "in_features"):  # an embedding, say: peft finds out whether it fits
            continue
        wanted = layer.in_features if part == "A" else layer.out_features
        if shape[1 if part == "A" else 0] != wanted:
            return f"{name} is {list(shape)}, the layer has {wanted} {'inputs' if part == 'A' else 'outputs'}"
    return None


def _misfit_bottleneck(model, shapes: Mapping[str, tuple[int, ...]], adapter: Path) -> str | None:
    from common.methods.bottleneck import find_places
    from common.methods.bottleneck import read_config as read_adapter_config

    config = read_adapter_config(adapter)
    places = {name for name, _ in find_places(model, config.placement)}
    if places != {name.split(".")[0] for name in shapes}:
        return f"its adapters are for {config.layers} layers"
    if config.width != model.config.hidden_size:
        return f"its adapters are for width {config.width}"
    return None


def _misfit_prompt(model, shapes: Mapping[str, tuple[int, ...]], adapter: Path) -> str | None:
    width = shapes["prompt_embeddings"][1]
    return None if width == model.config.hidden_size else f"its tokens have width {width}"


_FITS = {"lora": _misfit_lora, "adapter": _misfit_bottleneck, "ptuning": _misfit_prompt}


def _check_compute(recipe: Recipe) -> None:
    if recipe.model.compute == "int8":
        what = "method.init svd changes the weights, which are in int8 by then (model.compute)"
        remedy = "--set model.compute=auto or --set method.init=zero"
        raise UserError(Problem(what, "one of the two", remedy), ExitCode.CONFIG)


def _check_rank(model, layers: list[str], method: MethodSettings) -> None:
    """SVD has no more singular values than the smaller side of a weight."""
    sizes = {}
    for name in layers:
        if name.rsplit(".", 1)[-1] in method.targets:
            layer = model.get_submodule(name)
            sizes[name] = min(layer.in_features, layer.out_features)
    smallest = min(sizes, key=sizes.get)
    if method.rank > sizes[smallest]:
        what = f"method.init svd with rank {method.rank}: {smallest} has {sizes[smallest]} singular values"
        raise UserError(Problem(what, f"a rank of at most {sizes[smallest]}, or init zero"), ExitCode.CONFIG)


def _check_room(recipe: Recipe, config: Mapping[str, Any]) -> None:
    limit = config.get("max_position_embeddings")
    needed = recipe.method.virtual_tokens + recipe.data.max_length_tokens
    if limit and needed > limit:
        what = f"{recipe.method.virtual_tokens} virtual tokens before examples of up to {recipe.data.max_length_tokens}"
        fitting = limit - recipe.method.virtual_tokens
        raise UserError(
            Problem(what, f"the model holds {limit:,} tokens", f"set data.max_length_tokens to at most {fitting}"),
            ExitCode.CONFIG,
        )
