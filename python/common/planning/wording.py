"""The plan on the screen."""

from collections.abc import Sequence

from common.jobs import Job
from common.pack_memory import recomputed_every
from common.planning.options import Option
from common.planning.planning import Plan
from common.runs.view import format_duration

_DISTURBED = 0.5  # spread of the repeats of one step; 0.02 to 0.13 on a quiet machine (ten plans, 2026-11-25)


def print_plan(job: Job, plan: Plan, options: Sequence[Option]) -> None:
    """Print the plan for people: assumptions first, then time, memory and disk, then what could be changed."""
    recipe = job.recipe
    print(f"plan of {recipe.name}: {recipe.method.kind} on {recipe.model.name}, {recipe.model.precision}")
    for line in plan.assumed:
        print(f"  assumed: {line}")
    for title, lines in (
        ("data", _data(plan)),
        ("time", _time(plan)),
        ("memory", _memory(job, plan)),
        ("disk", _disk(plan)),
    ):
        for number, line in enumerate(lines):
            print(f"  {title if not number else '':<8}{line}")
    if options:
        print("\nwhat would save memory" if plan.fits else "\nit does not fit; what would save memory", end="")
        print(' (to make: SET="…", with what stands after each --set):')
        width = max(len(option.change) for option in options)
        for option in options:
            mark = "" if option.memory_gib <= plan.available_gib else ", still too much"
            print(f"  {option.change:<{width}}  {option.memory_gib:6.1f} GiB{mark}  {option.effect}")
            print(f"  {'':<{width}}  {option.setting}")


def _data(plan: Plan) -> list[str]:
    tokens = plan.tokens
    return [
        f"{tokens['epoch']:,} tokens an epoch, {tokens['mean']:.0f} an example, {tokens['longest']:,} the longest; "
        f"{tokens['computed_a_step']:,.0f} computed a step, {tokens['longest_part']:,} at a time"
    ]


def _time(plan: Plan) -> list[str]:
    steps = f"{plan.steps:,} steps ({plan.epochs:.3g} epochs of {plan.steps_per_epoch:,})"
    if plan.train_s is None:
        return [f"{steps}; how long was not measured"]
    return [
        f"{steps}, {_seconds(plan.step_s)} each: {format_duration(plan.train_s)}, "
        f"between {format_duration(plan.low_s)} and {format_duration(plan.high_s)}",
        f"first checkpoint after {format_duration(plan.first_checkpoint_s)}; "
        f"an evaluation {_seconds(plan.evaluation_s)}, a checkpoint {_seconds(plan.save_s)}",
        *_disturbance(plan),
    ]


def _disturbance(plan: Plan) -> list[str]:
    spread = plan.slice["spread"] if plan.slice else 0.0
    return [f"repeats of one step differed by {spread:.0%}: other programs ran"] if spread >= _DISTURBED else []


def _memory(job: Job, plan: Plan) -> list[str]:
    every = recomputed_every(job)
    which = {None: "no layer", 1: "every layer"}.get(every, f"one layer in {every}")
    fits = "" if plan.memory.total <= plan.available_gib else ": TOO MUCH"
    where = "where the model is loaded" if plan.memory.loads_longest else "in a step"
    return [
        f"{plan.memory.total:.1f} GiB at the peak, {where}, of {plan.available_gib:.1f} GiB free{fits}",
        *(f"{gib:8.2f}  {part}" for part, gib in plan.memory.parts().items()),
        f"{which} recomputes its activations",
    ]


def _disk(plan: Plan) -> list[str]:
    fits = "" if plan.disk_gib <= plan.free_disk_gib else ": TOO MUCH"
    return [
        f"{plan.checkpoint_gib:.3f} GiB a checkpoint, {plan.checkpoints} kept; "
        f"{plan.disk_gib:.2f} GiB in all, of {plan.free_disk_gib:.1f} GiB free{fits}"
    ]


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s" if seconds < 600 else format_duration(seconds)
