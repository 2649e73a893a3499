"""Is a run one of a recipe as it is today? Compares settings, data files and model files with what the run recorded.

Exit codes: 0 when they are the same, 1 when something differs (each difference is printed), 66 without such a run.
"""

import sys

from common import runs
from common.errors import CommandParser, ExitCode, run_command
from common.hashing import sha256_of
from common.recipes import load_recipe
from common.runs.choose import choose_run

DECIDED_BY_MACHINE = (None, "auto")  # a run records what became of these


def main() -> int:
    parser = CommandParser(prog="compare_inputs.py", description=__doc__)
    parser.add_argument("--run", required=True, metavar="NAME", help="name of the run")
    parser.add_argument("--recipe", required=True, metavar="NAME", help="a name in recipes/, or a YAML file")
    parser.add_argument("--smoke", action="store_true", help="with the smoke overlay on top")
    options = parser.parse_args(sys.argv[1:])

    manifest = runs.read_json(runs.runs_dir() / choose_run(options.run, "status", bool) / "run.json")
    settings = load_recipe(options.recipe, smoke=options.smoke).to_dict()
    differences = compare_settings(manifest.get("settings", {}), settings) + compare_files(manifest, settings)
    for line in differences:
        print(line)
    return ExitCode.GATE if differences else ExitCode.OK


def compare_settings(recorded: dict, today: dict) -> list[str]:
    """Return a line for each setting that the recipe names and the run had another value for."""
    lines = []
    for group, values in today.items():
        if not isinstance(values, dict):
            continue
        before = recorded.get(group, {})
        for key, value in values.items():
            if value not in DECIDED_BY_MACHINE and before.get(key) != value:
                lines.append(f"{group}.{key}: the run has {before.get(key)}, the recipe {value}")
    return lines


def compare_files(manifest: dict, settings: dict) -> list[str]:
    """Return a line for each data or model file that is not, byte for byte, the one the run was made with."""
    files = {
        runs.ROOT / settings["data"][part]: entry.get("sha256")
        for part, entry in manifest.get("data", {}).items()
        if settings["data"].get(part)
    }
    folder = runs.ROOT / manifest.get("model", {}).get("path", "")
    files |= {folder / name: digest for name, digest in manifest.get("model", {}).get("files", {}).items()}
    return [
        f"{path}: {'changed' if path.is_file() else 'gone'}"
        for path, digest in files.items()
        if not path.is_file() or sha256_of(path) != digest
    ]


if __name__ == "__main__":
    run_command(main)
