"""Write the LoRA of a finished run into the weights of its base, for servers: verified, with their configuration.

  python python/export_model.py --run demo                 to runs/demo/export/
  python python/export_model.py --run demo --output DIR --dtype fp32

The folder holds merged/ (safetensors, tokenizer, chat template, generation_config.json with the stop tokens, a
Modelfile), adapter/ (the LoRA alone, with a Modelfile), README.md with the lines that start vLLM, Ollama and
llama.cpp's converters, and export.json. The merged model is read back and its logits are compared with those of the
base that carries the adapter; beyond 1e-4 (fp32) or 5e-2 (bf16) of the largest logit nothing is left behind. A base
that was in 4 bits during training is merged in full precision, and what that changes is measured.
"""

from pathlib import Path

from common.errors import CommandParser, run_command


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--run", metavar="NAME", help="name of the run (default: the only completed one)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="where it goes (default: runs/NAME/export)")
    parser.add_argument("--dtype", default="auto", choices=("auto", "bf16", "fp32"), help="of the merged weights")
    parser.add_argument("--force", action="store_true", help="replace an export that is there")
    args = parser.parse_args()

    from common.runs import run_folder
    from common.runs.choose import choose_finished

    name = choose_finished(args.run, "export")
    folder = run_folder(name)

    from common.exporting.making import make_export
    from common.exporting.plan import plan_export

    plan = plan_export(name, folder, args.output or folder / "export", args.dtype, force=args.force)
    print(f"merging run '{name}' into {plan.base_name} in {plan.dtype.value} ({plan.dtype.reason})")
    record = make_export(plan)
    report(plan, record)


def report(plan, record: dict) -> None:
    """Say what the comparison gave, and how the export is served."""
    from common.exporting import serving
    from common.methods.merging import TOLERANCE

    print(
        f"verified on {record['compared_on']}: against base + adapter no logit differs by more than "
        f"{record['largest_difference']:.2e}, {record['largest_change']:.1e} of the largest "
        f"(allowed: {TOLERANCE[plan.dtype.value]:.0e}); the tuning changed up to {record['effect']:.1e}"
    )
    if record["nf4_change"] is not None:
        print(
            f"trained over a base in NF4, merged into one in {plan.dtype.value}: against the model that was trained "
            f"logits differ by up to {record['nf4_change']:.1e} of the largest, and "
            f"{record['nf4_same_choice']:.1%} of the tokens would be chosen alike"
        )
    for note in record["notes"]:
        print(f"note: {note}")
    print(f"exported to {plan.output}; there:")
    lines = (serving.vllm_lines(plan), serving.ollama_lines(plan, plan.output), serving.gguf_lines(plan))
    for title, forms in zip(("vLLM", "Ollama", "GGUF"), lines, strict=True):
        for form, line in forms.items():
            print(f"  {title + ', ' + form:<16}{line}")


if __name__ == "__main__":
    run_command(main)
