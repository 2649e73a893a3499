"""Check this machine and all that a recipe needs: one numbered line each, with the remedy where something is wrong."""

from common.errors import CommandParser, run_command
from common.recipes import load_recipe


def main() -> int:
    parser = CommandParser(description=__doc__)
    parser.add_argument("recipe", nargs="?", default="demo", help="a name in recipes/, or a YAML file")
    parser.add_argument(
        "--run", metavar="NAME", help="name the run would get (default: the recipe's, numbered if taken)"
    )
    parser.add_argument("--smoke", action="store_true", help="with the smoke overlay on top")
    args = parser.parse_args()

    recipe = load_recipe(args.recipe, smoke=args.smoke)

    from common import checks
    from common.jobs import Job
    from common.preparation import check_job
    from common.runs import free_name

    outcomes = checks.check_machine() + check_job(Job(recipe, args.run or free_name(recipe.name)))
    train = f"make train RECIPE={args.recipe}" + " SMOKE=1" * args.smoke + (f" RUN={args.run}" if args.run else "")
    return checks.conclude(outcomes, f"ready: {train}")


if __name__ == "__main__":
    run_command(main)
