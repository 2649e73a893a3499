"""TRL's SFTTrainer with this project's ways: its data order, its loss over trained tokens, its checkpoints.

SFTTrainer is a subclass of transformers' Trainer, so :class:`RecipeTraining` stands before it as before Trainer itself.
It gets token ids that are encoded already, and gives back what it is used for: its arguments, its callbacks, and its
language-model head that computes logits for trained positions only, some at a time.
"""

from collections.abc import Sequence
from contextlib import contextmanager

import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from common import packed_model
from common.batches import pad
from common.chat import Encoded
from common.packing import Pack
from common.recipe_trainer import RecipeTraining


class SftRecipeTrainer(RecipeTraining, SFTTrainer):
    """TRL's SFTTrainer with this project's data order, evaluation and checkpoints."""

    @staticmethod
    def arguments(**numbers) -> SFTConfig:
        """Return TRL's configuration. Its own defaults would cut long examples and train in bf16 autocast."""
        prepared = {"skip_prepare_dataset": True}  # by common.chat: the same tokens in training, judging and serving
        return SFTConfig(dataset_kwargs=prepared, max_length=None, packing=False, **numbers)

    def __init__(self, model, train_dataset: Sequence[Encoded], **options):
        options["data_collator"] = lambda rows: {"examples": [Encoded(**row) for row in rows]}
        with hidden_from_casts(model):
            super().__init__(model=model, train_dataset=as_table(train_dataset), **options)

    def example_lengths(self) -> Sequence[int]:
        return [len(ids) for ids in self.train_dataset["input_ids"]]

    def sum_loss(self, part, beginning: packed_model.Beginning | None = None) -> torch.Tensor:
        """Return the summed cross-entropy of a pack, or of a padded micro-batch through TRL's fused head."""
        if isinstance(part, Pack):
            return packed_model.sum_loss(self.model, part, self.args.device, beginning)
        batch = self._prepare_inputs(pad(part, self.processing_class.pad_token_id))
        return -self.model(**batch, fused_lm_head=True).log_probs.sum()

    def create_model_card(self, *_, **__) -> None:
        """Write nothing: the finished run's card is made from its manifest."""


def as_table(examples: Sequence[Encoded]) -> Dataset:
    """Return encoded examples as the kind of data set that TRL takes, in memory."""
    rows = list(examples)
    columns = ("input_ids", "completion_mask")
    return Dataset.from_dict({column: [getattr(row, column) for row in rows] for column in columns})


@contextmanager
def hidden_from_casts(model):
    """Keep the trained parameters of ``model`` in fp32 while SFTTrainer is made.

    On a 4-bit base it would cast every parameter that needs a gradient to bf16, which cards before Ampere do not have,
    and whose eight bits of precision lose small updates. So none seems to need one in the meantime.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
