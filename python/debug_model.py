"""What is wrong with this machine, model or training under several GPUs? One line each, with its remedy.

  python python/debug_model.py                              the machine and ds_config.json
  python python/debug_model.py --recipe frida-h100          and the recipe, its batch and its model, loaded
  python python/debug_model.py --recipe demo --model runs/demo
  python python/debug_model.py --device-map auto            and it, as a script loads it that gives a device_map
  python python/debug_model.py --nccl                       and a real message between all GPUs

Exit code 0: nothing is wrong; else that of the first thing that is.
"""

import json

from common.errors import CommandParser, run_command
from common.recipes import load_recipe


def main() -> int:
    args = build_parser().parse_args()

    from common import diagnosis, model_diagnosis
    from common.checks import conclude, print_checks, run_check

    if args.environment:
        print_checks([run_check("python", diagnosis.describe_python), run_check("devices", diagnosis.describe_devices)])
        return 0

    recipe = load_recipe(args.recipe, smoke=args.smoke)
    looks = diagnosis.look_at_machine() | diagnosis.look_at_settings(recipe, args.num_gpus)
    if args.nccl:
        looks["messages"] = diagnosis.check_messages
    outcomes = [run_check(title, look) for title, look in looks.items()]
    if not args.no_model:
        outcomes += model_diagnosis.look_at_model(recipe, args.model, args.device_map)
    return conclude(outcomes, "nothing is wrong")


def read_device_map(text: str) -> str | dict:
    """Return what transformers takes as a device_map. ValueError for JSON that is none."""
    return json.loads(text) if text.startswith("{") else text


def build_parser() -> CommandParser:
    parser = CommandParser(prog="debug_model.py", description=__doc__)
    parser.add_argument("--recipe", default="frida-h100", help="a name in recipes/, or a YAML file")
    parser.add_argument("--model", metavar="PATH", help="look into this one: run, adapter or model folder, or hub id")
    split = 'load it with this device_map: auto, or JSON as in {"model": 0, "lm_head": "cpu"}'
    parser.add_argument("--device-map", type=read_device_map, metavar="MAP", help=split)
    parser.add_argument("--num-gpus", type=int, metavar="N", help="GPUs on this node (default: the recipe's)")
    parser.add_argument("--smoke", action="store_true", help="with the smoke overlay on top")
    parser.add_argument("--no-model", action="store_true", help="load no model")
    parser.add_argument("--nccl", action="store_true", help="send a message between all GPUs")
    parser.add_argument("--environment", action="store_true", help="versions and devices only")
    return parser


if __name__ == "__main__":
    run_command(main)
