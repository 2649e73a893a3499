"""loss.png and what is drawn in it. Run: pytest tests/unit/test_loss_plot.py"""

import math

import pytest

from common.loss_plot import collect_losses, draw_in_place, perplexity

LOG = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.5}, {"step": 2, "eval_loss": 2.6}, {"step": 4, "eval_loss": 2.4}]


def test_evaluations_within_an_epoch_and_at_its_end_are_one_curve():
    epochs = [
        {"global_step": 4, "eval_loss": 2.4},
        {"global_step": 3, "eval_loss": 2.5},
        {"global_step": 8, "eval_loss": None},
    ]
    trained, judged = collect_losses(LOG, epochs)
    assert trained == [(1, 3.0), (2, 2.5)]
    assert judged == [(2, 2.6), (3, 2.5), (4, 2.4)]


def test_perplexity_is_e_to_the_loss_and_never_overflows():
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert math.isfinite(perplexity(1e6))


@pytest.mark.parametrize("log", [LOG, LOG[:1], []], ids=["both", "no evaluation", "nothing"])
def test_the_picture_is_the_same_bytes_each_time_and_leaves_nothing_beside_it(tmp_path, log):
    pictures = []
    for _ in range(2):
        draw_in_place(log, [], tmp_path)
        pictures.append((tmp_path / "loss.png").read_bytes())
    assert pictures[0] == pictures[1] and pictures[0].startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
