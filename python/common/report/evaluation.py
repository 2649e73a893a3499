"""The report on several tuned models of one base: Markdown, a picture, and the table on the screen."""

from pathlib import Path

from common.report.formats import p_value, percent, points, span
from common.report.page import open_templates
from common.runs import write_json

MIB = 2**20
TABLE_WIDTH = 150
# Of the answers one by one; the table's BLEU is that of all answers together.
LABELS = {"exact_match": "exact match", "token_f1": "token F1", "rouge_l": "ROUGE-L", "bleu": "sentence BLEU"}
LIMITS = {"max_memory_gib": "training memory (GiB)", "max_adapter_mib": "adapter (MiB)", "min_token_f1": "token F1"}


def write_evaluation(report: dict, path: Path) -> list[Path]:
    """Write ``path`` (JSON) and beside it its .md and .png; return all paths."""
    path.parent.mkdir(parents=True, exist_ok=True)
    markdown, picture = path.with_suffix(".md"), path.with_suffix(".png")
    draw_evaluation(report, picture)
    template = open_templates(autoescape=False).get_template("evaluation.md")
    words = {"head": HEADINGS, "labels": LABELS, "limits": LIMITS, "nats": nats}
    text = template.render(report=report, rows=table_rows(report), picture=picture.name, **words)
    markdown.write_text(text, encoding="utf-8", errors="replace")
    write_json(path, report)  # last: where it is, the others are too
    return [path, markdown, picture]


HEADINGS = (
    *("model", "loss", "perplexity", "exact match", "token F1", "ROUGE-L", "BLEU", "tokens/s"),
    *("trained", "share", "on disk", "peak memory", "time"),
)


def table_rows(report: dict) -> list[list[str]]:
    """Return a row of words for each model, as :data:`HEADINGS` names them."""
    return [
        [
            name,
            f"{model['loss']:.3f}",
            f"{model['perplexity']:.2f}",
            *(percent(model[measure]) for measure in ("exact_match", "token_f1", "rouge_l", "corpus_bleu")),
            f"{model['tokens_per_s']:.0f}",
            _known(model["trainable"], "{:,}"),
            _known(model["share"] and 100 * model["share"], "{:.3f} %"),
            _known(model["adapter_bytes"] and model["adapter_bytes"] / MIB, "{:.2f} MiB"),
            _known(model["peak_gib"], "{:.2f} GiB"),
            _known(model["training_s"], "{:.0f} s"),
        ]
        for name, model in report["models"].items()
    ]


def nats(value: float) -> str:
    """A difference of losses with its sign and a true minus."""
    return f"{value:+.3f}".replace("-", "−")


def print_evaluation(report: dict) -> None:
    """Print the table, each model's differences to the base, and the recommendation."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console = Console(highlight=False, width=max(console.width, TABLE_WIDTH))  # a narrow table would lose its figures
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in table_rows(report):
        table.add_row(*row)
    console.print(table, soft_wrap=True)
    for name, tests in report["differences"].items():
        loss, f1 = tests["loss"], tests["token_f1"]
        console.print(
            f"{name} − base: loss lower by {nats(loss['difference'])} ({span(loss['interval'], nats)}, "
            f"p {p_value(loss['sign_flip_p'])}), token F1 {points(f1['difference'])} points "
            f"({span(f1['interval'], points)})",
            soft_wrap=True,
            markup=False,
        )
    advice = report["recommendation"]
    console.print(f"\nrecommended: {advice['choice']}", style="bold")
    for line in [*advice["reasons"], *(f"not {n}: {'; '.join(why)}" for n, why in advice["excluded"].items())]:
        console.print(f"  {line}", soft_wrap=True, markup=False)


def draw_evaluation(report: dict, path: Path) -> None:
    """Draw a PNG: what each model gains in loss over the base, the text measures, and loss against size on disk."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    gains, texts, sizes = figure.subplots(1, 3, width_ratios=(1.1, 1.3, 1))
    colours = dict(zip(report["models"], ("#7b828c", "#b5bac2", "#1f77b4", "#d9730d", "#3a9a5b"), strict=False))
    for place, (name, tests) in enumerate(report["differences"].items()):
        test = tests["loss"]
        ends = [test["interval"]["low"], test["interval"]["high"]]
        gains.plot(ends, [place, place], color=colours[name], lw=3)
        gains.plot([test["difference"]], [place], "o", ms=8, color=colours[name])
    gains.axvline(0, color="#999999", lw=1, zorder=0)
    gains.set_yticks(range(len(report["differences"])), list(report["differences"]))
    gains.invert_yaxis()
    gains.set_title("Loss below the base's, 95 % interval (nats a token)", fontsize=11)

    height = 0.8 / len(report["models"])
    for place, (name, model) in enumerate(report["models"].items()):
        ys = [k + (place - (len(report["models"]) - 1) / 2) * height for k in range(len(LABELS))]
        values = [100 * model[measure] for measure in LABELS]
        bars = texts.barh(ys, values, height * 0.9, color=colours[name], label=name)
        texts.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    texts.set_yticks(range(len(LABELS)), list(LABELS.values()))
    texts.invert_yaxis()
    highest = max(100 * model[measure] for model in report["models"].values() for measure in LABELS)
    texts.set(xlim=(0, max(1.0, 1.15 * highest)), xlabel="% of the best possible")
    figure.legend(*texts.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    texts.set_title("Answers beside references", fontsize=11)

    for name, model in report["models"].items():
        if model["adapter_bytes"]:
            sizes.plot([model["adapter_bytes"] / MIB], [model["loss"]], "o", ms=9, color=colours[name])
            place = (model["adapter_bytes"] / MIB, model["loss"])
            sizes.annotate(name, place, xytext=(6, 6), textcoords="offset points", fontsize=9)
    sizes.axhline(report["models"]["base"]["loss"], color="#7b828c", lw=1, ls="--")
    sizes.margins(x=0.25)
    sizes.set(xscale="log", xlabel="adapter on disk (MiB)", ylabel="loss (nats a token)")
    sizes.set_title("Loss against size; dashed: base", fontsize=11)
    for axes in (gains, texts, sizes):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _known(value, form: str) -> str:
    return "–" if value is None else form.format(value)
