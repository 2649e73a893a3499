"""Look at data before training on it: its shape, its lengths, what is wrong or odd, two examples as they are trained.

python python/inspect_data.py --recipe demo                      # the data of a recipe, with its tokenizer
python python/inspect_data.py mine.jsonl --validation held_out.jsonl --model recipes/demo/model
"""

import sys

from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.recipes import load_recipe
from common.runs import ROOT
from common.settings import DataSettings, ModelSettings, Recipe


def main() -> None:
    options = parse_options()
    recipe = load_recipe(options.recipe) if options.recipe else None
    files = choose_files(options, recipe)
    limit, on_overlong, loss_on = choose_limits(options, recipe)
    tokenizer = None if options.leaks_only else load_tokenizer(options.model, recipe)

    from common.chat.inspection import describe_overlaps, plain_lines, print_rich, view_file
    from common.chat.separation import compare_files
    from common.data import load_examples
    from common.data.checking import Rules
    from common.data.leaks import check_leaks
    from common.data.splits import check_sizes

    rules, allow_leak = choose_rules(options, recipe)
    if options.leaks_only:
        found = compare_files(files, Rules(**rules), allow_leak=allow_leak).counts()
        print(describe_overlaps(found, allow_leak))
        return
    loaded = {split: load_examples(path, **rules) for split, path in files.items()}
    show = print_rich if sys.stdout.isatty() and not options.plain else lambda view: print(*plain_lines(view), sep="\n")
    for split, part in loaded.items():
        show(view_file(split, part, tokenizer, limit, on_overlong, loss_on))
    sizes = {split: len(part) for split, part in loaded.items()}
    for note in check_sizes(sizes, dict.fromkeys(sizes, 1.0)):
        print(f"note: {note}")
    if len(loaded) > 1:
        found = check_leaks({split: part.examples for split, part in loaded.items()}, allow_leak=allow_leak)
        print(describe_overlaps(found, allow_leak))


def parse_options():
    parser = CommandParser(prog="inspect_data.py", description=__doc__)
    parser.add_argument("train", nargs="?", metavar="FILE", help="JSONL, JSON array, CSV, TSV or Parquet")
    parser.add_argument("--recipe", metavar="NAME", help="take files, tokenizer, limits and rules from this recipe")
    parser.add_argument("--validation", metavar="FILE", help="validation examples, checked for leaks")
    parser.add_argument("--test", metavar="FILE", help="test examples, checked likewise")
    parser.add_argument("--model", metavar="NAME", help="model whose tokenizer counts (without one: characters)")
    parser.add_argument("--max-length-tokens", type=int, metavar="N", help="limit of an example")
    parser.add_argument(
        "--on-overlong", choices=("error", "drop", "truncate-prompt"), help="what to do with longer ones"
    )
    parser.add_argument("--loss-on", choices=("assistant", "all"), help="which tokens are trained")
    parser.add_argument("--columns", nargs="+", metavar="NAME=COLUMN", help="such as prompt=Question completion=Answer")
    parser.add_argument("--on-bad-row", choices=("error", "drop"), help="rows that cannot be used")
    parser.add_argument("--allow-empty", action="store_true", help="let empty answers pass")
    parser.add_argument("--allow-duplicates", action="store_true", help="let more than a tenth of the rows be repeats")
    parser.add_argument("--allow-secrets", action="store_true", help="let what looks like keys and tokens pass")
    parser.add_argument("--allow-leak", action="store_true", help="let files share rows or passages of 13 words")
    parser.add_argument("--leaks-only", action="store_true", help="only compare the files: any size, little memory")
    parser.add_argument("--plain", action="store_true", help="no colours, for logs")
    return parser.parse_args()


def choose_files(options, recipe: Recipe | None) -> dict[str, str]:
    """Return split → path: what was named, else the recipe's files."""
    own = vars(recipe.data) if recipe and not options.train else {}
    own = {part: str(ROOT / own[part]) for part in ("train", "validation") if own.get(part)}
    named = {
        "train": options.train or own.get("train"),
        "validation": options.validation or own.get("validation"),
        "test": options.test,
    }
    files = {split: path for split, path in named.items() if path}
    if "train" not in files or (options.leaks_only and len(files) < 2):
        what, needed = ("nothing to inspect", "a FILE, or --recipe NAME")
        if files:
            what, needed = "nothing to compare", "--leaks-only needs --validation or --test as well"
        raise UserError(Problem(what, needed, "see inspect_data.py --help"), ExitCode.USAGE)
    return files


def choose_limits(options, recipe: Recipe | None) -> tuple[int, str, str]:
    """Return (limit in tokens, what is done with longer examples, which tokens are trained)."""
    settings = recipe.data if recipe else DataSettings()
    return (
        options.max_length_tokens or settings.max_length_tokens,
        options.on_overlong or settings.on_overlong,
        options.loss_on or settings.loss_on,
    )


def choose_rules(options, recipe: Recipe | None) -> tuple[dict, bool]:
    """Return what is accepted of rows, as a training with this recipe would, and whether files may share rows."""
    from common.data import parse_columns

    settings = recipe.data if recipe else DataSettings()
    names = ("on_bad_row", "allow_empty", "allow_duplicates", "allow_secrets", "columns", "allow_leak")
    rules = {name: getattr(options, name) or getattr(settings, name) for name in names}
    rules["columns"] = parse_columns(rules["columns"]) if rules["columns"] else None
    return rules, rules.pop("allow_leak")


def load_tokenizer(model: str | None, recipe: Recipe | None):
    """Load the tokenizer of the model named, or of the recipe's; None when there is neither."""
    if not model and not recipe:
        return None
    from common import model_files, models

    return models.load_tokenizer(model_files.find_model(ModelSettings(name=model) if model else recipe.model))


if __name__ == "__main__":
    run_command(main)
