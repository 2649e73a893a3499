"""What a training tells its run: status, metrics, log lines, epochs, and when to save or stop."""

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from common import checkpoints, engine, ranks
from common.epochs import Epochs
from common.errors import ExitCode, Problem, StoppedRun, UserError
from common.loss_plot import draw_in_place, perplexity
from common.process_memory import peak_rss_gib
from common.runs import Run, log, utc_now
from common.runs.line import StatusLine
from common.runs.view import format_duration, progress_bar
from common.settings import TrainingSettings

_WINDOW_STEPS = 50  # speed and remaining time follow the last so many steps


class RunCallback(TrainerCallback):
    """Keeps a run's status, metrics and checkpoints up to date while the trainer trains.

    The order at the end of an epoch is: save and commit, then evaluate, then write the epoch down. So nothing is lost
    when the run ends during a long evaluation; resumed, it evaluates first.
    """

    def __init__(self, run: Run, settings: TrainingSettings, trainer, fingerprint: Mapping[str, Any]):
        self.run, self.settings, self.trainer, self.fingerprint = run, settings, trainer, fingerprint
        self.stopped = False
        self.epochs = Epochs(run.folder)
        self._step_times: deque[tuple[float, int]] = deque(maxlen=_WINDOW_STEPS)  # seconds, tokens
        self._evaluation_s = 0.0
        self._loss: float | None = None
        self._saved_step = -1
        self._saved_at = time.monotonic()
        self._checkpoint_bytes = 0
        self._bar = StatusLine(log.terminal() if ranks.is_leader() else None)

    # ------------------------------------------------------------------------------------ called by the trainer

    def on_train_begin(self, args, state, control, **_):
        self._saved_step, self._saved_at = state.global_step, time.monotonic()
        if newest := checkpoints.newest_committed(self.run.folder):
            self._checkpoint_bytes = checkpoints.size_bytes(newest)
        self.run.update_status("training", step=state.global_step, total_steps=state.max_steps)
        self.catch_up(state)
        self._bar.show(self._describe(state))
        if self.run.stop_requested():
            raise StoppedRun(f"stopped before step {state.global_step + 1}; make resume RUN={self.run.name}")

    def on_step_begin(self, args, state, control, **_):
        self._step_started, self._tokens_before = time.monotonic(), self.trainer.tokens_seen

    def on_step_end(self, args, state, control, **_):
        self._step_times.append((time.monotonic() - self._step_started, self.trainer.tokens_seen - self._tokens_before))
        self.run.update_status("training", step=state.global_step, epoch=round(state.epoch, 3), **self._speed(state))
        self._bar.show(self._describe(state))
        due = time.monotonic() - self._saved_at >= 60 * self.settings.save_every_minutes
        if ranks.agree(due and ranks.is_leader()):
            control.should_save = True
        every = self.settings.eval_every_steps
        if every and state.global_step % every == 0 and not self._at_epoch_end(state) and self.trainer.eval_dataset:
            control.should_evaluate = True
            self._evaluation_started = time.monotonic()
        return self._obey(control)

    def on_train_end(self, args, state, control, **_):
        self._bar.clear()

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            for name in ("loss", "grad_norm"):
                if not math.isfinite(logs.get(name, 0.0)):
                    raise diverged(f"the {name.replace('_', ' ')} is {logs[name]}", state.global_step)
            self._report_step(state, logs)
        elif "eval_loss" in logs:
            self._report_evaluation(state, logs["eval_loss"])

    def on_epoch_end(self, args, state, control, **_):
        if not self.stopped and state.global_step != self._saved_step:
            control.should_save = True
        return self._require_space(control)

    def on_prediction_step(self, args, state, control, **_):
        self.run.update_status("evaluating")
        self._bar.show(f"{self._describe(self.trainer.state)}  evaluating")

    def on_save(self, args, state, control, **_):
        folder = self.run.folder / f"checkpoint-{state.global_step}"
        self.run.update_status("saving")
        if not self.trainer.has_finite_weights():  # the log shows the gradient of some steps only
            raise diverged("the trained weights are not finite", state.global_step)
        ranks.barrier()  # every rank has written its part
        if ranks.is_leader():
            with checkpoints.written_or_removed(folder):
                checkpoints.commit_checkpoint(folder, self.fingerprint)
            checkpoints.rotate_checkpoints(self.run.folder, self.settings.keep_checkpoints)
            self._checkpoint_bytes = checkpoints.size_bytes(folder)
        self._saved_step, self._saved_at = state.global_step, time.monotonic()
        self._say(f"saved {folder.name}")
        if self._at_epoch_end(state):
            self._end_epoch(state)
        self.run.update_status("training")
        return self._obey(control)

    # ------------------------------------------------------------------------------------------------- epochs

    def catch_up(self, state) -> None:
        """Do for the epoch that ended with ``state`` what a kill after its checkpoint's commit has left undone."""
        self.epochs.read(state.global_step)
        last = self.epochs.entries[-1]["global_step"] if self.epochs.entries else 0
        if state.global_step > last and self._at_epoch_end(state):
            self._end_epoch(state)
        else:
            self._complete_last_epoch()

    def _end_epoch(self, state) -> None:
        self.epochs.add(state.epoch, state.global_step, state.log_history)
        if self.settings.keep_epochs:
            self.epochs.keep_adapter(self.trainer.model, self.trainer.processing_class)
        self.epochs.write()
        self._complete_last_epoch()

    def _complete_last_epoch(self) -> None:
        """Evaluate and write down the last epoch, if that is still to be done."""
        entry = self.epochs.entries[-1] if self.epochs.entries else None
        if entry is None or entry["eval_loss"] is not None or not self.trainer.eval_dataset:
            return
        started = time.monotonic()
        entry["eval_loss"] = self.trainer.evaluate().get("eval_loss")
        self._evaluation_s = time.monotonic() - started
        self.epochs.write()
        if entry["eval_loss"] is not None:
            self.run.update_status(eval_loss=entry["eval_loss"])
            trained = "not logged" if entry["train_loss"] is None else f"{entry['train_loss']:.4f}"
            self._say(f"epoch {entry['epoch']:g}  train loss {trained}  eval loss {entry['eval_loss']:.4f}")

    def _at_epoch_end(self, state) -> bool:
        return state.global_step == state.max_steps or float(state.epoch).is_integer()

    # ------------------------------------------------------------------------------------------------ stopping

    def _obey(self, control):
        """Turn a stop request into a save and a stop at this safe point."""
        if self.run.stop_requested() and not self.stopped:
            self.stopped = True
            self._say("asked to stop: saving")
        if self.stopped:
            control.should_save = self.trainer.state.global_step != self._saved_step
            control.should_training_stop = True
        return self._require_space(control)

    def _require_space(self, control):
        if control.should_save and ranks.is_leader():
            checkpoints.require_space(self.run.folder, self._checkpoint_bytes)
        return control

    # ------------------------------------------------------------------------------------------------ progress

    def _say(self, line: str) -> None:
        self._bar.clear()
        print(line)

    def _describe(self, state) -> str:
        """Return the line that a terminal shows in place of a line a step."""
        speed = self._speed(state) if self._step_times else {}
        parts = [progress_bar({"step": state.global_step, "total_steps": state.max_steps})]
        parts.append(f"step {state.global_step}/{state.max_steps}")
        if self._loss is not None:
            parts.append(f"loss {self._loss:.4f}")
        if speed:
            parts += [f"{speed['tokens_per_s']:.0f} tokens/s", f"eta {format_duration(speed['eta_s'])}"]
        return "  ".join(parts)

    def _speed(self, state) -> dict[str, float]:
        seconds = sum(s for s, _ in self._step_times)
        tokens = sum(t for _, t in self._step_times)
        remaining = (state.max_steps - state.global_step) * seconds / len(self._step_times)
        per_epoch, _ = engine.count_steps(self.settings, len(self.trainer.train_dataset))
        evaluations = engine.count_evaluations(self.settings, state.max_steps, per_epoch, state.global_step)
        return {
            "tokens_per_s": round(tokens / seconds, 1),
            "step_s": round(seconds / len(self._step_times), 3),
            "eta_s": round(remaining + self._evaluation_s * evaluations, 1),
            "next_save_s": round(self._next_save_s(state, seconds / len(self._step_times)), 1),
        }

    def _next_save_s(self, state, step_s: float) -> float:
        """Return the seconds to the next checkpoint: at the end of the epoch, or when the time for one has come."""
        epoch_steps = state.global_step / state.epoch if state.epoch else 0.0
        left = min(epoch_steps * (1 - state.epoch % 1), state.max_steps - state.global_step)
        due_s = 60 * self.settings.save_every_minutes - (time.monotonic() - self._saved_at)
        return max(0.0, min(left * step_s, due_s))

    def _report_step(self, state, logs: Mapping[str, float]) -> None:
        speed = self._speed(state)
        record = {
            "step": state.global_step,
            "epoch": round(state.epoch, 4),
            **{name: logs[name] for name in ("loss", "grad_norm", "learning_rate") if name in logs},
            "tokens_per_s": speed["tokens_per_s"],
            "peak_rss_gib": round(peak_rss_gib(), 3),
            "time": utc_now(),
        }
        self.run.append_metrics(record)
        self.run.update_status(loss=logs["loss"])
        self._loss = logs["loss"]
        line = (
            f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  lr {logs['learning_rate']:.2e}  "
            f"{speed['tokens_per_s']:.0f} tokens/s  {speed['step_s']:.2f} s/step  eta {format_duration(speed['eta_s'])}"
        )
        if self._bar:
            self.run.write_log(line)
        else:
            print(line)

    def _report_evaluation(self, state, loss: float) -> None:
        record = {"step": state.global_step, "epoch": state.epoch, "eval_loss": loss, "perplexity": perplexity(loss)}
        self.run.append_metrics(record)
        if not self.settings.eval_every_steps:
            return
        if not self._at_epoch_end(state):
            self._evaluation_s = time.monotonic() - self._evaluation_started
            self.run.update_status("training", eval_loss=loss)
            self._say(
                f"step {state.global_step}/{state.max_steps}  eval loss {loss:.4f}  perplexity {perplexity(loss):.3f}"
            )
        if ranks.is_leader():
            draw_in_place(state.log_history, self.epochs.entries, self.run.folder)


def diverged(what: str, step: int) -> UserError:
    """Return the error for a loss, a gradient or weights that are no longer finite at ``step``."""
    remedy = "start a new run with a lower training.learning_rate; or mend the data and make resume FORCE=1"
    return UserError(Problem(f"{what} at step {step}", "finite numbers", remedy), ExitCode.INTERNAL)
