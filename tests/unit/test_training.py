"""An optimizer step is what its examples make it, however they are split. Run: pytest tests/unit/test_training.py"""

import pytest
import torch
from small_models import RAGGED, gradient, make_model
from transformers import TrainingArguments

from common import lean_layers, packed_model
from common.recipe_trainer import RecipeTrainer
from common.settings import TrainingSettings
from common.trainer_arguments import on_one_gpu

EXAMPLES = (RAGGED * 3)[:16]


def first_step(tmp_path, micro_batch, packing):
    """The loss and the gradient of a step of sixteen examples."""
    model = make_model("llama")
    numbers = TrainingSettings(
        micro_batch=micro_batch, gradient_accumulation=16 // micro_batch, packing=packing, pack_tokens=128
    )
    if packing == "on":
        packed_model.enable_packs(model)
        lean_layers.use_lean_layers(model)

    class Tokenizer:
        pad_token_id = 0

    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    trainer = RecipeTrainer(numbers=numbers, model=model, args=arguments, train_dataset=EXAMPLES)
    trainer.processing_class = Tokenizer()
    loss = trainer.training_step(model, {"examples": EXAMPLES})
    return loss.item(), gradient(model)


def test_accumulation_changes_neither_loss_nor_gradient(tmp_path):
    loss, slope = first_step(tmp_path, 16, "off")
    for micro_batch, packing in ((4, "off"), (1, "off"), (16, "on"), (4, "on")):
        its_loss, its_slope = first_step(tmp_path, micro_batch, packing)
        assert its_loss == pytest.approx(loss, rel=1e-5), (micro_batch, packing)
        assert (its_slope - slope).norm() <= 1e-5 * slope.norm(), (micro_batch, packing)
    assert torch.isfinite(slope).all() and slope.norm() > 0


def test_a_step_has_as_many_examples_on_a_machine_with_several_gpus(tmp_path):
    """The stock trainer gives each GPU that it sees a micro-batch, when one process trains."""
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=8)
    arguments._n_gpu = 4  # as it is where four are seen
    assert arguments.train_batch_size == 32
    assert on_one_gpu(arguments).train_batch_size == 8
