"""Work shared out piece by piece comes out as if one core had done it. Run: pytest tests/unit/test_teamwork.py"""

import threading

import pytest
import torch

from common import teamwork
from common.teamwork import columns, multiply, share_out

PATIENCE_S = 30


@pytest.fixture(autouse=True)
def two_cores():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_come_in_the_order_of_the_pieces(threads):
    torch.set_num_threads(threads)
    assert share_out(lambda piece: piece**2, range(50)) == [piece**2 for piece in range(50)]
    assert torch.get_num_threads() == threads


def test_a_slow_piece_holds_up_no_other():
    """The first piece waits until all others are done: with equal shares it would wait for ever."""
    left, done = set(range(1, 20)), threading.Event()

    def work(piece):
        if piece == 0:
            return done.wait(PATIENCE_S)
        left.discard(piece)
        if not left:
            done.set()
        return True

    assert all(share_out(work, range(20)))


def test_each_piece_is_computed_by_one_thread():
    barrier = threading.Barrier(2, timeout=PATIENCE_S)  # both cores are at work

    def work(piece):
        barrier.wait()
        return threading.get_ident(), torch.get_num_threads()

    cores, threads = zip(*share_out(work, range(2)), strict=True)
    assert len(set(cores)) == 2 and threads == (1, 1)


def test_nothing_is_recorded_by_any_core():
    barrier = threading.Barrier(2, timeout=PATIENCE_S)
    weight = torch.ones(2, requires_grad=True)

    def work(piece):
        barrier.wait()
        return weight * piece

    assert not any(result.requires_grad for result in share_out(work, range(2)))


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_is_raised_when_no_core_is_at_work_any_more(failing):
    barrier, finished = threading.Barrier(2, timeout=PATIENCE_S), []

    def work(piece):
        barrier.wait()
        if piece == failing:
            raise ValueError(piece)
        finished.append(piece)

    with pytest.raises(ValueError, match=str(failing)):
        share_out(work, range(2))
    assert finished == [1 - failing] and torch.get_num_threads() == 2
    assert share_out(abs, [-1, -2]) == [1, 2], "the team works on"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 256, 257, 700])
def test_a_product_is_that_of_one_piece_however_many_cores_there_are(dtype, width):
    left, right = torch.randn(37, 64, dtype=dtype), torch.randn(width, 64, dtype=dtype).T
    wanted = (left.double() @ right.double()).to(dtype)
    results = []
    for threads in (2, 3, 2):
        torch.set_num_threads(threads)
        results.append(torch.empty(40, width, dtype=dtype))
        multiply(left, right, out=results[-1][:37])
        torch.testing.assert_close(results[-1][:37], wanted)
    assert all(torch.equal(result[:37], results[0][:37]) for result in results)


def test_columns_are_cut_only_for_a_team_that_was_measured(monkeypatch):
    right = torch.empty(4, 600)
    assert [part.shape[1] for (part,) in columns(right)] == [256, 256, 88]
    monkeypatch.setattr(teamwork, "_MOST_CORES", 1)
    assert [part.shape[1] for (part,) in columns(right)] == [600]
    assert [part.shape[1] for (part,) in columns(right.to("meta"))] == [600]
