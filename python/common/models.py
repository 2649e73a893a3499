"""Base models and tokenizers in memory: loaded safely, from files that were checked.

A tensor that is missing or unexpected is an error, not a warning.
"""

import os
import shutil
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Event, Thread
from typing import Any

from common import hardware, process_memory
from common.errors import ExitCode, Problem, UserError
from common.model_files import check_model_folder

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_GIVE_BACK_S = 2.0  # between two times: what is read meanwhile stays below a GiB


def load_tokenizer(folder: Path):
    """Return the tokenizer of a model or run folder. A missing pad token becomes EOS: padding is masked everywhere."""
    quieten_libraries()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if tokenizer.chat_template is None:
        what, allowed = f"the tokenizer in {folder} has no chat template", "an instruction-tuned model is needed"
        raise UserError(Problem(what, allowed, "use the model's instruct form"), ExitCode.CONFIG)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Copy the files of a tokenizer from one folder to another, byte for byte."""
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def load_model(
    folder: Path,
    precision: str = "fp32",
    device: str = "cpu",
    compute: str = "auto",
    device_map: str | dict | None = None,
):
    """Return the causal language model in ``folder`` with its weights in ``precision`` (bf16, fp16, fp32 or nf4).

    ``compute`` says in what weights in nf4 are multiplied, and kept where they are not quantised; with "int8" those of
    linear layers are kept and multiplied in 8 bits, all else in ``precision``. All of it is on ``device``, unless a
    ``device_map`` as transformers knows it spreads it.
    Raises UserError (66) for missing, unexpected or misshapen tensors and for files that cannot be read.
    """
    quieten_libraries()
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    from common.frozen_linear import keep_in_int8

    if hardware.pick_device().value == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed, where a library imports it, warns of no GPU
    problems = check_model_folder(folder)
    if problems:
        raise UserError(problems, ExitCode.NO_INPUT)
    kind = hardware.pick_compute(compute, precision, device).value
    in_int8 = kind == "int8"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision if in_int8 else kind]
    options: dict[str, Any] = {"dtype": "auto" if in_int8 else dtype}  # rounded from what the files hold
    if precision == "nf4":
        options["quantization_config"] = _nf4_config(dtype)
    if device != "cpu":
        options["device_map"] = {"": device}
    if device_map:
        options["device_map"] = device_map
    few_stay = (precision == "nf4" or in_int8) and device == "cpu" and not device_map  # of what is read from the files
    if few_stay:
        process_memory.return_freed_memory()
    try:
        with _give_back_pages(folder) if few_stay else nullcontext():
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below, with all that is wrong, instead of a traceback
                **options,
            )
            if in_int8:
                for block in model.get_decoder().layers:
                    keep_in_int8(block)
                    process_memory.give_back_pages(folder)  # which it was rounded from
    except (SafetensorError, OSError) as error:
        problem = Problem(f"cannot load the model in {folder}: {error}", next_step="copy or download it again")
        raise UserError(problem, ExitCode.NO_INPUT) from error
    wrong = [f"{kind.replace('_', ' ')}: {sorted(map(str, info[kind]))[:5]}" for kind in info if info[kind]]
    if wrong:
        what = f"the weights in {folder} do not fit the model: {'; '.join(wrong)}"
        raise UserError(Problem(what, "every tensor, and no other", "copy or download it again"), ExitCode.NO_INPUT)
    if few_stay:  # a tensor that lies in a file's mapping keeps all of the file's pages
        for weight in model.parameters():
            if weight.is_floating_point():
                weight.data = weight.data.to(dtype if in_int8 else weight.dtype, copy=True)
    if in_int8:
        model.config.dtype = dtype
    return model


@contextmanager
def _give_back_pages(folder: Path):
    """While the files in ``folder`` are read, give back what was read of them, again and again."""
    done = Event()

    def give_back() -> None:
        while not done.wait(_GIVE_BACK_S):
            process_memory.give_back_pages(folder)

    helper = Thread(target=give_back, daemon=True)
    helper.start()
    try:
        yield
    finally:
        done.set()
        helper.join()


def quieten_libraries() -> None:
    """No progress bars, load reports or hints about optional kernels: what matters is checked and said here."""
    import warnings

    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _nf4_config(dtype):
    """NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314), computing in ``dtype``."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
