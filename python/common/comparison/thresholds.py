"""What a fine-tuned model must reach to be adopted. Fractions: 0.05 is five points."""

from dataclasses import dataclass

from common.errors import ExitCode, Problem, UserError


@dataclass(frozen=True)
class Thresholds:
    """The least mean score, and the least gain over the arm it would replace."""

    adopt_score: float = 0.90
    adopt_gain: float = 0.05

    def __post_init__(self):
        problems = [
            Problem(f"--{name.replace('_', '-')} {value}", "a fraction: 0.05 is five points")
            for name, value in vars(self).items()
            if not -1.0 <= value <= 1.0
        ]
        if problems:
            raise UserError(problems, ExitCode.USAGE)
