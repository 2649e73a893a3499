"""Print a recipe as it would run: every setting, resolved; or one field of it for a launcher."""

import json

from common.errors import CommandParser, ExitCode, Problem, UserError, run_command
from common.recipes import load_recipe


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("recipe", help="a name in recipes/, or a YAML file")
    parser.add_argument("--smoke", action="store_true", help="with the smoke overlay on top")
    parser.add_argument("--field", metavar="KEY", help="print this one only, as in command or training.epochs")
    args = parser.parse_args()

    resolved = load_recipe(args.recipe, smoke=args.smoke).to_dict()
    if args.field:
        print(pick_field(resolved, args.field))
    else:
        print(json.dumps(resolved, indent=2))


def pick_field(resolved: dict, key: str) -> object:
    """Return the value at a dotted ``key``."""
    value = resolved
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise UserError(Problem(f"no field '{key}'", "fields: " + ", ".join(resolved)), ExitCode.USAGE)
        value = value[part]
    return value


if __name__ == "__main__":
    run_command(main)
