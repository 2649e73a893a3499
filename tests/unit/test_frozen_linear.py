"""Products in int8: exact but for rounding, each token by itself. Run: pytest tests/unit/test_frozen_linear.py"""

import pytest
import torch
from small_models import RAGGED, gradient

from common import frozen_linear, packed_model
from common.errors import UserError
from common.frozen_linear import Int8Linear, keep_in_int8, round_rows, weight_of
from common.hardware import int8_flag
from common.lean_layers import use_lean_layers
from common.methods import add_method, check_method
from common.models import copy_tokenizer, load_model
from common.packing import build_pack
from common.settings import MethodSettings, Recipe

# Without these instructions, sums of products in int8 may overflow, which is why training in int8 is refused there.
pytestmark = pytest.mark.skipif(not int8_flag(), reason="this CPU has no int8 instructions")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(frozen_linear, "_COLUMNS", 5)
    monkeypatch.setattr(frozen_linear, "_CACHED", 100)
    yield
    torch.set_num_threads(threads)


def exact(rounded):
    return rounded.values.double() * rounded.scales.double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_rounded_to_within_half_a_step_of_their_own(dtype):
    torch.manual_seed(0)
    matrix = (torch.randn(10, 33) * torch.logspace(-6, 6, 10)[:, None]).to(dtype)
    matrix[4] = 0
    kept = matrix.clone()
    rounded = round_rows(matrix)
    assert torch.equal(matrix, kept) and rounded.values.dtype == torch.int8
    step = matrix.double().abs().amax(1, keepdim=True) / 127
    assert ((exact(rounded) - matrix.double()).abs() <= 0.501 * step).all()
    assert rounded.values.abs().amax(1).tolist() == [127] * 4 + [0] + [127] * 5


def test_factors_multiply_columns_before_they_are_rounded():
    torch.manual_seed(0)
    matrix, factors = torch.randn(7, 12), torch.logspace(-2, 2, 12)
    for found, wanted in zip(round_rows(matrix, factors), round_rows(matrix * factors), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(bad):
    layer = Int8Linear(torch.nn.Linear(6, 4))
    x = torch.ones(3, 6)
    x[1, 2] = bad
    result = layer(x)
    assert torch.isfinite(result[[0, 2]]).all() and not torch.isfinite(result[1]).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_the_rounded_factors(dtype):
    torch.manual_seed(0)
    layers = [Int8Linear(torch.nn.Linear(24, 40, bias=False)) for _ in range(2)]
    one, other = (weight_of(layer, dtype) for layer in layers)
    x, slopes = torch.randn(11, 24).to(dtype), [torch.randn(11, 40).to(dtype) for _ in range(2)]
    result, x_slope = x.new_empty(11, 40), x.new_empty(11, 24)
    one.multiply(one.take(x), out=result)
    one.add_back(slopes, [one, other], out=x_slope)
    wanted = exact(round_rows(x)) @ exact(one).T
    wanted_slope = sum(
        exact(round_rows(slope, weight.scales[:, 0])) @ weight.values.double()
        for slope, weight in zip(slopes, (one, other), strict=True)
    )
    near = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 2e-2}
    torch.testing.assert_close(result.double(), wanted, **near)
    torch.testing.assert_close(x_slope.double(), wanted_slope, **near)


def test_a_layer_with_a_bias_and_any_leading_dimensions_is_near_the_plain_one():
    torch.manual_seed(0)
    plain = torch.nn.Linear(64, 40)
    layer = Int8Linear(plain)
    x = torch.randn(2, 5, 64, requires_grad=True)
    slope = torch.randn(2, 5, 40)
    found, wanted = layer(x), plain(x)
    found_back, wanted_back = (torch.autograd.grad(y, x, slope)[0] for y in (found, wanted))
    for near, true in ((found, wanted), (found_back, wanted_back)):
        assert 1e-4 < (near - true).norm() / true.norm() < 2e-2


@pytest.fixture(params=["lean", "plain"])
def tuned(request, tiny_folder):
    """Two models with the same adapter: with weights in int8, and as they are."""

    def make(compute):
        model = load_model(tiny_folder, "fp32", compute=compute)
        torch.manual_seed(1)
        model = add_method(model, MethodSettings(dropout=0, targets=["q_proj", "v_proj"]), "tiny").train()
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.1)
        packed_model.enable_packs(model)
        if request.param == "lean":
            use_lean_layers(model)
        return model

    return make("int8"), make("auto")


def test_every_linear_layer_but_the_head_is_in_int8(tuned):
    in_int8, _ = tuned
    layers = {name: type(layer) for name, layer in in_int8.named_modules() if isinstance(layer, torch.nn.Linear)}
    names = ("q_proj.base_layer", "k_proj", "v_proj.base_layer", "o_proj", "gate_proj", "up_proj", "down_proj")
    found = {name for name, kind in layers.items() if kind is Int8Linear}
    assert found == {name for name in layers if name.endswith(names)} and found
    assert in_int8.get_base_model().lm_head.weight.dtype == torch.float32
    assert {weight.dtype for weight in in_int8.parameters() if weight.requires_grad} == {torch.float32}


def test_gradients_are_near_and_packs_change_nothing(tuned):
    def train(model, packs):
        losses = [packed_model.sum_loss(model, build_pack(pack)) for pack in packs]
        sum(losses).backward()
        return sum(loss.item() for loss in losses), gradient(model)

    in_int8, plain = tuned
    loss, slopes = train(in_int8, [RAGGED])
    wanted_loss, wanted = train(plain, [RAGGED])
    assert loss == pytest.approx(wanted_loss, rel=1e-2) and loss != wanted_loss
    assert (slopes - wanted).norm() < 5e-2 * wanted.norm()
    alone_loss, alone = train(in_int8, [[example] for example in RAGGED])
    assert loss == pytest.approx(alone_loss, rel=1e-3)
    assert (slopes - alone).norm() < 2e-2 * alone.norm()  # a number between two steps may fall to either


def test_a_file_in_bf16_is_rounded_as_it_is_and_all_else_is_fp32(tiny_folder, tmp_path):
    model = load_model(tiny_folder, "bf16")
    model.save_pretrained(tmp_path)
    copy_tokenizer(tiny_folder, tmp_path)
    found = load_model(tmp_path, "fp32", compute="int8")
    assert {weight.dtype for weight in found.parameters()} == {torch.float32, torch.int8}
    assert found.config.dtype == torch.float32
    keep_in_int8(model.model)
    for name, weight in model.named_parameters():
        assert torch.equal(found.get_parameter(name), weight.to(found.get_parameter(name).dtype)), name


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "method",
    [MethodSettings(dropout=0), MethodSettings(kind="adapter", size=8), MethodSettings(kind="ptuning", encoder_size=8)],
    ids=lambda method: method.kind,
)
def test_every_method_learns_on_them_recomputed_or_not(tiny_folder, method, threads):
    torch.set_num_threads(threads)

    def train(recompute):
        torch.manual_seed(1)
        model = add_method(load_model(tiny_folder, "bf16", compute="int8"), method, "tiny", tiny_folder).train()
        for name, weight in model.named_parameters():
            if "lora_B" in name or "up.weight" in name:
                torch.nn.init.normal_(weight, std=0.1)
        if recompute:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        ids = torch.tensor([[5, 9, 13, 7, 11, 8, 30, 31]])
        model(input_ids=ids, labels=ids).loss.backward()
        return gradient(model)

    slopes = train(recompute=False)
    assert torch.isfinite(slopes).all() and slopes.any()
    assert torch.equal(train(recompute=True), slopes)


def test_a_method_that_changes_the_weights_is_refused(tiny_folder):
    recipe = Recipe("test", "finetune_ba", method=MethodSettings(rank=4, init="svd"))
    recipe.model.compute = "int8"
    with pytest.raises(UserError, match="svd changes the weights.*--set model.compute=auto or --set method.init=zero"):
        check_method(recipe, tiny_folder)
