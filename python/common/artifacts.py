"""What a finished training leaves behind: the adapter with its tokenizer, its card and figures, and the loss plot."""

import shutil
from pathlib import Path
from typing import Any

from common.checkpoints import written_or_removed
from common.epochs import read_epochs
from common.errors import ExitCode, Problem, UserError
from common.hashing import sha256_of
from common.loss_plot import LOSS_PLOT, plot_losses
from common.methods import count_parameters, require_trained, save_adapter, saved_tensors
from common.planning import records
from common.process_memory import peak_gpu_gib, peak_rss_gib
from common.runs import ROOT, Run, utc_now, write_json
from common.runs.folders import DONE_FILE, sync_files, sync_folder
from common.settings import Recipe
from common.sharing.card import model_card


def save_finished(run: Run, recipe: Recipe, trainer) -> dict[str, Any]:
    """Write the finished adapter into the run's folder and return training_info.json's content.

    Everything is written to a folder beside it, compared with the model in memory, and then moved in; DONE.json, with
    the sha256 of every file, comes last. Data files that are no longer what was trained on are named there and in
    run.json. Raises UserError (70) when the adapter never learned or reads back otherwise.
    """
    run.update_status("saving")
    require_trained(trainer.model)
    info = describe_training(run, recipe, trainer)
    draft = run.folder / ".final"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    with written_or_removed(draft):
        save_adapter(trainer.model, draft)
        _compare_with_memory(draft, trainer.model)
        trainer.processing_class.save_pretrained(draft)
        write_json(draft / "training_info.json", info)
        (draft / "README.md").write_text(model_card(run.name, run.manifest(), info), encoding="utf-8")
        plot_losses(trainer.state.log_history, read_epochs(run.folder), draft / LOSS_PLOT)
        sync_files(draft)

    files = {path.name: sha256_of(path) for path in sorted(draft.iterdir())}
    for name in files:
        (draft / name).replace(run.folder / name)
    draft.rmdir()
    sync_folder(run.folder)
    changed = record_changed_data(run)
    now = utc_now()
    done = {"finished_at": now, "global_step": trainer.state.global_step, "data_changed": changed, "files": files}
    write_json(run.folder / DONE_FILE, done)
    _write_page(run.folder)
    print(f"as planned? {records.describe(info['plan'])}")
    print(f"finished: adapter, tokenizer and card are in {run.folder}")
    return info


def _write_page(folder: Path) -> None:
    """Write the run's report.html; a finished training does not fail over it."""
    from common.report.run_page import write_run_page

    try:
        write_run_page(folder)
    except Exception as error:
        print(f"warning: report.html could not be written ({type(error).__name__}: {error}); make report tries again")


def record_changed_data(run: Run) -> list[str]:
    """Return which parts of the data ("train", …) are no longer what the run read; warn, and say so in run.json.

    What the run went on with by FORCE=1 is among its breaks, with its sha256.
    """
    changed, breaks = [], "\n".join(run.manifest().get("breaks", []))
    for part, entry in run.manifest().get("data", {}).items():
        path = ROOT / entry["path"]
        try:
            now = sha256_of(path)
            if now == entry["sha256"] or now in breaks:
                continue
            what = "changed after it was read"
        except OSError as error:
            what = f"can no longer be read ({error.strerror})"
        changed.append(part)
        print(f"warning: {path} {what}; the run trained on what it read at its start ({part})")
    if changed:
        run.write_manifest(run.manifest() | {"data_changed": changed})
    return changed


def describe_training(run: Run, recipe: Recipe, trainer) -> dict[str, Any]:
    """Return the figures and every hyper-parameter of a training, as kept in training_info.json."""
    trainable, total = count_parameters(trainer.model)
    epochs = read_epochs(run.folder)
    last = epochs[-1] if epochs else {}
    settings = recipe.to_dict()
    peak, on_gpu = peak_rss_gib(), peak_gpu_gib() if recipe.training.device == "cuda" else None
    planned = records.compare(run.manifest().get("plan"), on_gpu or peak, trainer.train_s, trainer.share)
    return {
        "recipe": recipe.name,
        "base_model": recipe.model.name,
        "epochs": recipe.training.epochs,
        "train_examples": len(trainer.train_dataset),
        "val_examples": len(trainer.eval_dataset),
        "trainable_params": trainable,
        "total_params": total,
        "trainable_percentage": round(100 * trainable / total, 4),
        "steps": trainer.state.global_step,
        "train_loss": last.get("train_loss"),
        "eval_loss": last.get("eval_loss"),
        "peak_rss_gib": round(peak, 3),
        "peak_gpu_gib": on_gpu and round(on_gpu, 3),
        "plan": planned,
        "precision": recipe.model.precision,
        "revision": recipe.model.revision,
        **{f"data_{key}": value for key, value in settings["data"].items()},
        **{f"method_{key}": value for key, value in settings["method"].items()},
        **{key: value for key, value in settings["training"].items() if key != "epochs"},
    }


def _compare_with_memory(folder: Path, model) -> None:
    """Raise UserError (70) unless the saved tensors are, bit for bit, those of the model."""
    import torch
    from safetensors.torch import load_file

    saved, live = load_file(folder / "adapter_model.safetensors"), saved_tensors(model)
    same = saved.keys() == live.keys() and all(torch.equal(saved[name], live[name].cpu()) for name in saved)
    if not same:
        what, remedy = "the saved adapter differs from the one in memory", "make resume writes it again"
        raise UserError(Problem(what, "the same bits", remedy), ExitCode.INTERNAL)
