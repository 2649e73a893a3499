"""The trainer: what this project adds to transformers' Trainer, for it and for its subclasses.

What differs from the stock trainer: a batch is all examples of an optimizer step, packed or one by one, and its loss
the mean over their trained tokens; the order of examples depends on seed and epoch alone; evaluation draws no random
numbers; checkpoints are committed and hold no pickled arguments; and saving follows this project's rules (each epoch,
every so many minutes, when asked to stop). Together they make a resumed run end with the bytes of an uninterrupted one.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from transformers import Trainer, TrainingArguments

from common import checkpoints, engine, hardware, packed_model, process_memory, ranks
from common.batches import count_trained, pad
from common.data_order import EpochOrder
from common.methods import load_state, save_state
from common.packing import Pack, plan_packs
from common.progress import diverged
from common.settings import TrainingSettings


class RecipeTraining:
    """What this project does otherwise than transformers' Trainer. Stands before it, or before a subclass of it."""

    arguments = TrainingArguments

    def __init__(self, numbers: TrainingSettings, **options):
        self.numbers = numbers
        self.loss_scale = 1.0  # a power of two: the gradients are divided by it before anything looks at them
        self.should_stop: Callable[[], bool] = lambda: False
        self.train_s: float | None = None  # in this attempt, and the share of all steps that it did
        self.share = 0.0
        self.tokens_seen = 0  # in this attempt, prompt and answer of every example, no padding
        super().__init__(**options)

    def set_recomputation(self, numbers: TrainingSettings) -> None:
        """Let the training recompute activations as ``numbers`` say, which may have been settled after its start."""
        self.args.activation_checkpointing = numbers.activation_checkpointing == "on"
        self.args.activation_checkpointing_kwargs["every_n_layers"] = numbers.checkpoint_every_n_layers or 1

    def teach_parts(self) -> None:
        """Let the model be called with a part of a step: DeepSpeed's engine sees only what goes through ``forward``."""
        forward = self.model.forward

        def forward_part(part=None, **inputs):
            return forward(**inputs) if part is None else self.sum_loss(part)

        self.model.forward = forward_part

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """Return the examples of each step of all ranks: which of them computes what, training_step decides."""
        if self.args.world_size == 1:
            return super().get_train_dataloader()
        return torch.utils.data.DataLoader(
            self.train_dataset,
            batch_size=self.args.train_batch_size * self.args.world_size,
            sampler=self._get_train_sampler(),
            collate_fn=self.data_collator,
        )

    def examples_per_step(self) -> int:
        """Return the global batch: how many examples of all ranks make an optimizer step."""
        return self.args.train_batch_size * self.args.world_size

    def count_steps(self) -> int:
        """Return the number of optimizer steps of the whole training."""
        if self.args.max_steps > 0:
            return self.args.max_steps
        per_epoch = math.ceil(len(self.train_dataset) / self.examples_per_step())
        return math.ceil(self.args.num_train_epochs * per_epoch)

    def example_lengths(self) -> Sequence[int]:
        """Return the number of tokens of each training example."""
        return [len(example) for example in self.train_dataset]

    def longest_examples(self, count: int) -> list:
        """Return the ``count`` longest training examples, the longest first."""
        lengths = self.example_lengths()
        places = sorted(range(len(lengths)), key=lambda place: -lengths[place])[:count]
        return self.data_collator([self.train_dataset[place] for place in places])["examples"]

    def load_finished(self, checkpoint: Path) -> None:
        """Load adapter and state of a training that has no step left."""
        self._load_from_checkpoint(str(checkpoint))
        if self.is_deepspeed_enabled:  # whose engine, which is not made any more, would have put it there
            self.model.to(device=self.args.device, dtype=torch.bfloat16 if self.args.bf16 else None)
        self.state = type(self.state).load_from_json(str(checkpoint / "trainer_state.json"))

    def _get_train_sampler(self, train_dataset=None) -> EpochOrder:
        lengths = self.example_lengths() if self.numbers.group_by_length else None
        return EpochOrder(len(train_dataset or self.train_dataset), self.args.seed, self, lengths)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Run forward and backward over all examples of an optimizer step; return their mean loss per trained token.

        The parts are dealt out to the ranks, and each computes as many: one that has none left repeats a part with
        weight 0, for gradients are added up after each. DeepSpeed takes the mean over the ranks, hence the weight.
        """
        hardware.reseed_apple_gpu(self.args.device.type, self.args.seed, self.state.global_step)
        examples = inputs["examples"]
        trained = count_trained(examples)
        parts = self.split_step(examples)
        mine = self.deal(parts)
        loss = torch.zeros((), device=self.args.device)
        model.train()
        rounds = math.ceil(len(parts) / self.args.world_size)
        with self.begin(mine) as beginning:
            for number in range(rounds):
                part, weight = (mine[number], self.args.world_size) if number < len(mine) else (parts[0], 0)
                summed = model(part) if self.is_deepspeed_enabled else self.sum_loss(part, beginning)
                part_loss = summed * weight / trained
                if self.is_deepspeed_enabled:  # which takes the step inside backward, at the last part
                    self.accelerator.gradient_state._set_sync_gradients(number == rounds - 1)
                self.accelerator.backward(part_loss * self.loss_scale)
                loss += part_loss.detach()
                if self.args.device.type == "cpu":
                    process_memory.trim_heap()
        self.unscale_gradients()
        if self.args.world_size > 1:
            loss = torch.full_like(loss, ranks.add_up(loss.item()) / self.args.world_size)
        if not torch.isfinite(loss):
            raise diverged(f"the loss is {loss.item()}", self.state.global_step + 1)
        self.tokens_seen += sum(len(example) for example in examples)
        return loss

    def unscale_gradients(self) -> None:
        """Divide the gradients by the loss's scale: exact, for both are powers of two."""
        if self.loss_scale != 1.0:
            for parameter in self.model.parameters():
                if parameter.grad is not None:
                    parameter.grad /= self.loss_scale

    def deal(self, parts: list) -> list:
        """Return this rank's share of the parts of a step."""
        return parts[self.args.process_index :: self.args.world_size]

    def split_step(self, examples: Sequence) -> list:
        """Return what goes through the model at a time: packs, or micro-batches of examples."""
        if self.numbers.packing == "on":
            world, once = self.args.world_size, engine.begins_once(self.numbers)
            return plan_packs(examples, self.numbers.pack_tokens, multiple_of=world, begin_once=once)
        size = self.numbers.micro_batch
        return [examples[start : start + size] for start in range(0, len(examples), size)]

    def begin(self, parts: Sequence) -> AbstractContextManager[packed_model.Beginning | None]:
        """Return a context that holds what ``parts`` all begin with, computed once, for :meth:`sum_loss`."""
        if self.numbers.packing == "on":
            return packed_model.begin(self.model, parts, self.args.device)
        return nullcontext()

    def sum_loss(self, part, beginning: packed_model.Beginning | None = None) -> torch.Tensor:
        """Return the summed cross-entropy of a pack or of a padded micro-batch."""
        if isinstance(part, Pack):
            return packed_model.sum_loss(self.model, part, self.args.device, beginning)
        batch = self._prepare_inputs(pad(part, self.processing_class.pad_token_id))
        return self.model(**batch, num_items_in_batch=1).loss

    def has_finite_weights(self) -> bool:
        trained = (weight for weight in self.model.parameters() if weight.requires_grad)
        return all(torch.isfinite(weight).all() for weight in trained)

    def floating_point_ops(self, inputs) -> int:
        return 0  # the stock estimate knows nothing of packs; speed is told in tokens per second

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Return ``{"eval_loss": …}``, the mean over all trained tokens of the validation examples; {} when stopped.

        Iterates without a DataLoader, which would draw from the random state that training continues with.
        """
        examples = eval_dataset or self.eval_dataset
        size = self.examples_per_step()
        loss_sum, trained = 0.0, 0
        self.model.eval()
        for start in range(0, len(examples), size):
            batch = examples[start : start + size]
            mine = self.deal(self.split_step(batch))
            with torch.no_grad(), self.begin(mine) as beginning:
                loss_sum += sum(self.sum_loss(part, beginning).item() for part in mine)
            trained += count_trained(batch)
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
            if self.should_stop():
                return {}
        metrics = {f"{metric_key_prefix}_loss": ranks.add_up(loss_sum) / max(trained, 1)}
        self.log(metrics)
        return metrics

    def _save_checkpoint(self, *args, **options) -> None:
        with checkpoints.written_or_removed(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(*args, **options)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the adapter; the stock trainer would first copy all weights, the base's too, on every DeepSpeed rank."""
        self._save(output_dir or self.args.output_dir)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        if ranks.is_leader():
            save_state(self.model, Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        load_state(self.model, Path(resume_from_checkpoint))


class RecipeTrainer(RecipeTraining, Trainer):
    """transformers' Trainer with this project's data order, evaluation and checkpoints."""
