"""Measure what survival costs: the share of a training's time that commits and status take.

  python python/bench_overhead.py --recipe demo

The result is runs/bench/overhead.json.
"""

from common.errors import CommandParser, run_command


def main() -> None:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--recipe", default="demo", help="a name in recipes/, or a YAML file")
    parser.add_argument("--smoke", action="store_true", help="with the smoke overlay on top: a few steps")
    args = parser.parse_args()

    from common import hardware
    from common.manifest import describe_git
    from common.reliability.overhead import measure_overhead
    from common.runs import runs_dir, utc_now, write_json

    path = runs_dir() / "bench" / "overhead.json"
    result = measure_overhead(args.recipe, smoke=args.smoke)
    now = utc_now()
    write_json(path, {"date": now, **result, "machine": hardware.describe(), "git": describe_git()})
    for part, seconds in result["seconds"].items():
        print(f"{part:<9} {seconds:8.2f} s in {result['calls'][part]:5} calls")
    print(f"commits and status take {result['share']:.2%} of the training's time; {path}")


if __name__ == "__main__":
    run_command(main)
