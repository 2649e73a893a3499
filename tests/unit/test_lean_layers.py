"""Lean layers compute what the plain ones do. Run: pytest tests/unit/test_lean_layers.py

Their gradients in every model are held against one-by-one training in test_packing.py.
"""

import random
import time
from functools import partial

import pytest
import torch
from small_models import RAGGED, gradient, make_model

from common import dropout_masks, frozen_linear, lean_attention, lean_layers, packed_model, teamwork
from common.lean_layers import GatedMlp, LoraLinear
from common.lean_layers import _product_rows as product_rows
from common.methods import add_method
from common.models import load_model
from common.packing import build_pack
from common.settings import MethodSettings


@pytest.mark.parametrize(("flag", "wanted"), [("amx_bf16", 2560), ("avx512_bf16", 1024)])
def test_products_are_larger_in_bf16_and_where_a_cpu_has_matrix_tiles(monkeypatch, flag, wanted):
    rows = product_rows.__wrapped__  # not what another test kept
    monkeypatch.setattr(lean_layers, "_CACHED_ROWS", 256)
    monkeypatch.setattr(lean_layers, "bf16_flag", lambda: flag)
    assert (rows(torch.bfloat16), rows(torch.float32)) == (wanted, 256)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So few tokens and columns at a time that every layer takes several pieces, the last one shorter."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(teamwork, "_COLUMNS", 5)
    monkeypatch.setattr(packed_model, "_CACHED_LOGITS", 200)
    monkeypatch.setattr(lean_attention, "_CACHED_SCORES", 200)
    monkeypatch.setattr(lean_attention, "_FEWEST_QUERIES", 3)
    monkeypatch.setattr(lean_layers, "_CACHED_ROWS", 10)
    monkeypatch.setattr(lean_layers, "_product_rows", lambda dtype: 30)
    monkeypatch.setattr(lean_layers, "_TILE", 4)
    yield
    torch.set_num_threads(threads)


def train_once(model, seed=3):
    torch.manual_seed(seed)
    loss = packed_model.sum_loss(model, build_pack(RAGGED))
    loss.backward()
    return loss.item(), gradient(model)


@pytest.mark.parametrize("kind", ["mistral", "qwen2", "phi3"])  # plain, with biases, with joined matrices
def test_with_the_same_masks_results_are_those_of_peft(kind, monkeypatch):
    def as_peft_draws(shape, rate):
        return -torch.empty(shape, dtype=torch.int8).bernoulli_(1 - rate), rate

    model = make_model(kind, dropout=0.3).train()
    packed_model.enable_packs(model)
    plain_loss, plain = train_once(model)
    monkeypatch.setattr(lean_layers, "draw_kept", as_peft_draws)
    lean_layers.use_lean_layers(model)
    lean_loss, lean = train_once(model)
    assert lean_loss == pytest.approx(plain_loss, rel=1e-5)
    assert (lean - plain).norm() <= 1e-5 * plain.norm()
    assert (train_once(model, seed=4)[1] - plain).norm() > 1e-2 * plain.norm()


@pytest.mark.parametrize("rate", [0.0005, 0.1, 0.5, 0.99999])
def test_dropout_drops_at_its_rate_and_each_number_by_itself(rate):
    torch.manual_seed(0)
    kept, drops = dropout_masks.draw_kept((1001, 2003), rate)
    assert drops == pytest.approx(rate, abs=2**-16)
    assert drops < 1  # what is kept is divided by 1 minus it
    spread = (drops * (1 - drops) / kept.numel()) ** 0.5
    assert kept.shape == (1001, 2003) and kept.unique().tolist() in ([-1, 0], [0])  # all bits set, or none
    kept = -kept
    assert 1 - kept.double().mean().item() == pytest.approx(drops, abs=5 * spread)
    flat = kept.flatten().double() - (1 - drops)
    for distance in (1, 2, 3, 4, 2003):  # within a drawn number, between two, between two tokens
        together = (flat[:-distance] * flat[distance:]).mean().item() / max(drops * (1 - drops), 2**-16)
        assert abs(together) < 5 / len(flat) ** 0.5


def test_which_core_takes_a_piece_changes_no_bit(monkeypatch):
    def share_out_disturbed(work, pieces):
        def disturbed(piece):
            time.sleep(random.random() / 1000)
            return work(piece)

        return teamwork.share_out(disturbed, pieces)

    model = make_model("mistral", dropout=0.3).train()
    packed_model.enable_packs(model)
    lean_layers.use_lean_layers(model)
    wanted_loss, wanted = train_once(model)
    for module in (frozen_linear, lean_attention, lean_layers, packed_model):
        monkeypatch.setattr(module, "share_out", share_out_disturbed)
    for _ in range(3):
        loss, slopes = train_once(model)
        assert loss == wanted_loss and torch.equal(slopes, wanted)


@pytest.mark.parametrize("shape", [(0, 3), (7, 5), (512, 512), (513, 513)])
def test_drawn_in_parts_a_mask_has_the_bits_of_one_drawn_at_once(shape, monkeypatch):
    torch.manual_seed(0)
    parts, _ = dropout_masks.draw_kept(shape, 0.3)
    following = torch.rand(3)
    torch.manual_seed(0)
    count = shape[0] * shape[1]
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    least = round(0.3 * 2**16) - 2**15
    assert torch.equal(parts, -(bits[:count].view(shape) >= least).to(torch.int8))
    assert torch.equal(torch.rand(3), following)


def test_dropout_is_drawn_anew_from_the_seed():
    def draw(seed):
        torch.manual_seed(seed)
        return torch.stack([dropout_masks.draw_kept((30, 40), 0.5)[0] for _ in range(2)])

    first, second = draw(1)
    assert torch.equal(draw(1), torch.stack((first, second)))
    assert not torch.equal(first, second)
    assert not torch.equal(draw(2)[0], first)


def test_in_bf16_they_are_as_near_to_fp32_as_the_plain_layers():
    model = make_model("mistral")
    packed_model.enable_packs(model)
    _, exact = train_once(model)
    for weight in model.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.bfloat16()
    _, plain = train_once(model)
    lean_layers.use_lean_layers(model)
    _, lean = train_once(model)
    plain_error, lean_error = ((slope - exact).norm() / exact.norm() for slope in (plain, lean))
    assert 1e-4 < lean_error < 1.1 * plain_error


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["gate_proj", "o_proj"]], ids=["attention", "mlp"])
def test_on_weights_in_nf4_results_are_those_of_bitsandbytes(tiny_folder, targets, checkpointing):
    model = load_model(tiny_folder, "nf4", compute="fp32")
    model = add_method(model, MethodSettings(dropout=0, targets=targets), "tiny", tiny_folder).train()
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    packed_model.enable_packs(model)
    plain_loss, plain = train_once(model)
    lean_layers.use_lean_layers(model)
    lean = {type(module).__name__ for module in model.modules() if isinstance(vars(module).get("forward"), partial)}
    assert "Linear4bit" in lean and ("MistralMLP" in lean) == ("gate_proj" not in targets)
    lean_loss, lean = train_once(model)
    assert lean_loss == pytest.approx(plain_loss, rel=1e-5)
    assert (lean - plain).norm() <= 1e-5 * plain.norm()


def test_every_layer_that_can_be_is_lean():
    model = make_model("mistral")
    lean_layers.use_lean_layers(model)
    lean = [type(module).__name__ for module in model.modules() if "forward" in vars(module)]
    assert sorted(set(lean)) == ["Linear", "MistralRMSNorm"]  # down_proj is adapted: this MLP stays as it is
    assert len(lean) == 2 * 3 + 2 * 2 + 1


def test_switched_off_adapters_stay_off():
    model = make_model("mistral")
    ids = torch.tensor([RAGGED[0].input_ids])
    with torch.no_grad(), model.disable_adapter():
        plain = model(ids).logits
        lean_layers.use_lean_layers(model)
        assert torch.allclose(model(ids).logits, plain, atol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(model(ids).logits, plain, atol=1e-3)


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64)

    x, down, up = (tensor.requires_grad_() for tensor in (draw(70, 6), draw(2, 6), draw(5, 2)))

    def frozen(inputs, outputs, **options):
        return torch.nn.Linear(inputs, outputs, dtype=torch.float64, **options).requires_grad_(False)

    base, kept = frozen(6, 5), -(torch.rand(70, 6) < 0.7).to(torch.int8)
    assert torch.autograd.gradcheck(lambda *trained: LoraLinear.apply(x, base, *trained, 1.7, kept), (down, up))
    assert torch.autograd.gradcheck(lambda x: LoraLinear.apply(x, base, down, up, 1.7, kept), (x,))
    gate_up_down = frozen(6, 9, bias=False), frozen(6, 9, bias=False), frozen(9, 6, bias=False)
    assert torch.autograd.gradcheck(lambda x: GatedMlp.apply(x, *gate_up_down), (x,))
