"""The lines that start servers and converters on an exported run; paths are relative to the export's folder."""

from pathlib import Path

from common.exporting.plan import Plan

_VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes
_OLLAMA_LORA = ("llama", "mistral", "mixtral", "gemma", "gemma2")  # safetensors adapters it reads itself


def vllm_lines(plan: Plan) -> dict[str, str]:
    """Return name → command for vLLM: the merged model, and the adapter on its base."""
    rank = next((size for size in _VLLM_RANKS if size >= plan.rank), plan.rank)
    return {
        "merged": f"vllm serve merged --served-model-name {plan.name}",
        "adapter": f"vllm serve {plan.base_shown} --enable-lora --max-lora-rank {rank} "
        f"--lora-modules {plan.name}=adapter",
    }


def ollama_lines(plan: Plan, folder: Path) -> dict[str, str]:
    """Return name → command for Ollama, for the forms that have a Modelfile in the export's ``folder``."""
    forms = (form for form in ("merged", "adapter") if (folder / form / "Modelfile").is_file())
    return {form: f"ollama create {plan.name.lower()} -f {form}/Modelfile" for form in forms}


def ollama_note(plan: Plan) -> str:
    """What must be done before Ollama takes the adapter, or ""."""
    if plan.model_type in _OLLAMA_LORA:
        return ""
    return (
        f"Ollama reads safetensors adapters of Llama, Mistral and Gemma only, not of {plan.model_type}: convert it to "
        "GGUF first and name that file after ADAPTER, or use the merged form."
    )


def gguf_lines(plan: Plan) -> dict[str, str]:
    """Return name → command of llama.cpp's converters; LLAMA_CPP is a clone of its repository."""
    return {
        "merged": f"python LLAMA_CPP/convert_hf_to_gguf.py merged --outfile {plan.name}.gguf --outtype auto",
        "adapter": f"python LLAMA_CPP/convert_lora_to_gguf.py adapter --base {plan.base_shown} "
        f"--outfile {plan.name}-lora.gguf --outtype f32",
    }
