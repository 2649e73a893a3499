"""Training through TRL: the adapter's precision, the loss, the order of examples, the memory probe.

Run: pytest tests/unit/test_sft.py
"""

import pytest
import torch

from common import memory_probe
from common.chat import Encoded
from common.data_order import EpochOrder, group_by_length
from common.errors import ExitCode, UserError
from common.jobs import Job
from common.methods import add_method, describe_trainable
from common.methods.kinds import keep_nf4_layout
from common.models import load_model, load_tokenizer
from common.packing import rows_of_logits
from common.recipe_trainer import RecipeTrainer
from common.runs import ROOT
from common.settings import MethodSettings, Recipe
from common.training import new_trainer, seed_everything

METHOD = MethodSettings(rank=4, alpha=8, dropout=0.0, targets=["q_proj", "v_proj", "down_proj"])
IDS = torch.randint(3, 64, (6, 14), generator=torch.Generator().manual_seed(1)).tolist()
EXAMPLES = [Encoded(ids[: 6 + k], [False] * 4 + [True] * (2 + k)) for k, ids in enumerate(IDS)]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(ROOT / "recipes" / "demo" / "model")


@pytest.fixture
def trainer_of(tiny_folder, tokenizer, tmp_path):
    """Makes a trainer for the tiny model; ``packing``, ``precision`` and other numbers as named."""

    def make(trainer_class=None, precision="fp32", model=None, **numbers):
        from common.sft import SftRecipeTrainer

        recipe = Recipe("tiny", "train_yoda", method=METHOD)
        recipe.model.precision = precision
        values = {"device": "cpu", "max_steps": 2, "packing": "off", "micro_batch": 2, "gradient_accumulation": 2}
        for name, value in (values | {"activation_checkpointing": "off"} | numbers).items():
            setattr(recipe.training, name, value)
        if model is None:
            seed_everything(7)
            model = add_method(load_model(tiny_folder, precision), METHOD, "tiny", tiny_folder)
        job = Job(recipe, "tiny", tokenizer=tokenizer, train_set=EXAMPLES)
        return new_trainer(job, model, tmp_path / "out", trainer_class=trainer_class or SftRecipeTrainer)

    return make


def gradients(trainer):
    trainer.training_step(trainer.model, {"examples": EXAMPLES[:4]})
    return {name: weight.grad.clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad}


def trained(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}


def test_the_adapter_on_nf4_stays_in_fp32_bit_for_bit(tiny_folder, trainer_of):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no build for this system")
    seed_everything(7)
    model = add_method(load_model(tiny_folder, "nf4"), METHOD, "tiny", tiny_folder)
    before = trained(model)
    after = trained(trainer_of(precision="nf4", model=model).model)
    assert before.keys() == after.keys() and len(before) == 12
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_without_that_trl_would_cast_it(tiny_folder, tokenizer, tmp_path):
    """The reason for hidden_from_casts: when TRL no longer does this, it can go."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no build for this system")
    from trl import SFTTrainer

    from common.sft import SftRecipeTrainer, as_table

    model = add_method(load_model(tiny_folder, "nf4"), METHOD, "tiny", tiny_folder)
    arguments = SftRecipeTrainer.arguments(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    data = as_table(EXAMPLES)
    SFTTrainer(model, arguments, lambda rows: rows, data, processing_class=tokenizer)
    assert {weight.dtype for weight in trained(model).values()} == {torch.bfloat16}


def test_packs_padded_batches_and_the_plain_trainer_have_the_same_gradients(trainer_of):
    wanted = gradients(trainer_of(RecipeTrainer))
    for found in (gradients(trainer_of()), gradients(trainer_of(packing="on", pack_tokens=64))):
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


def test_the_scale_of_fp16_changes_no_bit_of_a_gradient_in_fp32(trainer_of):
    plain, scaled = trainer_of(), trainer_of()
    scaled.loss_scale = 1024.0
    wanted, found = gradients(plain), gradients(scaled)
    assert all(torch.equal(found[name], gradient) for name, gradient in wanted.items())


def test_a_scale_is_used_where_products_are_in_fp16_and_only_there(tiny_folder, trainer_of):
    assert trainer_of().loss_scale == 1.0
    assert trainer_of(precision="fp16").loss_scale == 1024.0


def test_nf4_with_the_rest_in_bf16_trains_in_packs_as_on_a_gpu(tiny_folder, trainer_of):
    """On a GPU embedding, norms and head stay in half precision: the same layers, run here on the CPU."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no build for this system")
    from common.methods import lora

    seed_everything(7)
    base = load_model(tiny_folder, "nf4")
    keep_nf4_layout(base)
    assert base.get_input_embeddings().weight.dtype == torch.bfloat16
    half = lora.add(base.requires_grad_(False), METHOD, "tiny", None)
    found = gradients(trainer_of(precision="nf4", model=half, packing="on"))
    wanted = gradients(trainer_of(precision="nf4", packing="on"))
    for name, gradient in wanted.items():
        assert found[name].dtype == torch.float32
        if "lora_B" in name:  # those of A are 0 as long as B is
            assert torch.nn.functional.cosine_similarity(found[name].flatten(), gradient.flatten(), 0) > 0.98


def test_the_trainable_line_is_pefts_and_agrees_with_the_formula(tiny_folder, capsys):
    model = add_method(load_model(tiny_folder), METHOD, "tiny", tiny_folder)
    line = describe_trainable(model, METHOD, tiny_folder)
    model.print_trainable_parameters()
    assert line == capsys.readouterr().out.strip()
    with pytest.raises(UserError, match="by the formula of lora it is") as caught:
        describe_trainable(model, MethodSettings(rank=5, targets=METHOD.targets), tiny_folder)
    assert caught.value.exit_code == ExitCode.INTERNAL


LENGTHS = [int(length) for length in torch.randint(5, 200, (103,), generator=torch.Generator().manual_seed(3))]


def order_of(epoch, seed=42, lengths=LENGTHS, batch=4):
    class Trainer:
        state = type("State", (), {"epoch": epoch})

        def examples_per_step(self):
            return batch

    return list(EpochOrder(len(lengths), seed, Trainer(), lengths))


def test_grouping_by_length_is_decided_by_seed_epoch_and_lengths():
    first = order_of(0)
    assert sorted(first) == list(range(103))
    assert order_of(0) == first == order_of(0.0)
    assert len({tuple(order) for order in (first, order_of(1), order_of(0, seed=43), order_of(0, batch=8))}) == 4


def test_the_examples_of_a_step_are_of_similar_length_and_the_short_step_is_the_last():
    def spread(order):
        steps = [[LENGTHS[index] for index in order[at : at + 4]] for at in range(0, 100, 4)]
        return sum(max(step) - min(step) for step in steps) / len(steps)

    generator = torch.Generator().manual_seed(0)
    plain = torch.randperm(103, generator=generator).tolist()
    grouped = group_by_length(plain, LENGTHS, 4, generator)
    assert spread(grouped) < spread(plain) / 10
    means = [sum(LENGTHS[index] for index in grouped[at : at + 4]) / 4 for at in range(0, 100, 4)]
    assert means != sorted(means) and means != sorted(means, reverse=True)  # steps are shuffled, not sorted


class Manifest:
    """What the probe uses of a run."""

    def __init__(self):
        self.content = {"settings": {"training": {}}}

    def manifest(self):
        return dict(self.content)

    def write_manifest(self, content):
        self.content = content


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("MPS backend out of memory (x)"),
    ],
    ids=["cuda", "mps"],
)
def test_the_probe_divides_the_micro_batch_and_keeps_the_global_one(trainer_of, monkeypatch, error):
    """A machine that cannot hold more than one example at a time, the longest of them included."""
    trainer = trainer_of(micro_batch=4, gradient_accumulation=1, activation_checkpointing="on")
    seen, whole = [], trainer.sum_loss

    def sum_loss(part):
        seen.append([len(example) for example in part])
        if len(part) > 1:
            raise error
        return whole(part)

    monkeypatch.setattr(trainer, "sum_loss", sum_loss)
    run, numbers = Manifest(), trainer.numbers
    memory_probe.fit_micro_batch(run, numbers, trainer)
    assert seen == [[11, 10, 9, 8], [11, 10], [11]]
    assert (numbers.micro_batch, numbers.gradient_accumulation) == (1, 4)
    assert trainer.examples_per_step() == 4
    assert trainer.model.is_activation_checkpointing
    assert all(weight.grad is None for weight in trainer.model.parameters())
    found = run.content["memory_probe"]
    assert found["reduced"] and found["longest_tokens"] == 11
    assert run.content["settings"]["training"]["micro_batch"] == 1

    after = torch.rand(1)
    memory_probe.fit_micro_batch(run, numbers, trainer)  # as a resumed run does: nothing is tried, all the same
    assert len(seen) == 3 and torch.equal(torch.rand(1), after)


def test_the_probe_tries_packs_as_long_as_a_step_makes_them(trainer_of, monkeypatch):
    """A step lays all its examples into packs, however few of them a micro-batch has."""
    trainer = trainer_of(micro_batch=1, gradient_accumulation=4, packing="on", pack_tokens=64)
    seen, whole = [], trainer.sum_loss

    def sum_loss(part):
        seen.append(len(part))
        if len(part) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return whole(part)

    monkeypatch.setattr(trainer, "sum_loss", sum_loss)
    found = memory_probe.settle(trainer.numbers, trainer)
    assert seen == [38, 19, 19]  # the four longest, together and in two packs
    assert found["reduced"] and (trainer.numbers.pack_tokens, trainer.numbers.micro_batch) == (32, 1)


def test_what_does_not_fit_at_all_is_refused_and_other_errors_are_not_swallowed(trainer_of, monkeypatch):
    trainer = trainer_of()

    def fail_with(error):
        monkeypatch.setattr(trainer, "sum_loss", lambda part: (_ for _ in ()).throw(error))

    fail_with(torch.OutOfMemoryError("CUDA out of memory."))
    with pytest.raises(UserError, match="the longest example, 11 tokens, does not fit") as caught:
        memory_probe.fit_micro_batch(Manifest(), trainer.numbers, trainer)
    assert caught.value.exit_code == ExitCode.UNAVAILABLE
    fail_with(RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        memory_probe.fit_micro_batch(Manifest(), trainer.numbers, trainer)


def test_a_probe_divides_by_what_leaves_no_rest_and_shortens_packs():
    numbers = Recipe("x", "y").training
    numbers.micro_batch, numbers.gradient_accumulation, numbers.packing = 9, 2, "off"
    batches = []
    while memory_probe.divide(numbers, 100):
        batches.append((numbers.micro_batch, numbers.gradient_accumulation))
    assert batches == [(3, 6), (1, 18)]
    numbers.packing, numbers.pack_tokens = "on", 512
    packs = []
    while memory_probe.divide(numbers, 100):
        packs.append(numbers.pack_tokens)
    assert packs == [256, 128, 100]


def test_few_rows_of_logits_where_the_vocabulary_is_large():
    assert [rows_of_logits(vocabulary) for vocabulary in (2048, 32_000, 128_256)] == [512, 512, 261]
