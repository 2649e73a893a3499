"""Work shared out piece by piece comes out as if one core had done it. Run: pytest tests/unit/test_teamwork.py"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from common import teamwork
from common.teamwork import cut_columns, cut_rows, multiply, share_out

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
@pytest.mark.parametrize("width", [1, 256, 1024, 1100])
def test_a_product_is_the_same_each_time_and_on_a_row_of_a_larger_tensor(dtype, width):
    left, right = torch.randn(37, 64, dtype=dtype), torch.randn(width, 64, dtype=dtype).T
    wanted = (left.double() @ right.double()).to(dtype)
    results = []
    for _ in range(3):
        results.append(torch.empty(40, width, dtype=dtype))
        multiply(left, right, out=results[-1][:37])
        torch.testing.assert_close(results[-1][:37], wanted)
    assert all(torch.equal(result[:37], results[0][:37]) for result in results)


def test_what_is_cut_has_two_pieces_a_core():
    right = torch.empty(600, 1100)
    assert [part.shape[1] for (part,) in cut_columns(right)] == [256, 256, 256, 256, 76]
    assert [part.shape[1] for (part,) in cut_columns(right[:, :1000])] == [1000]
    assert [len(part) for (part,) in cut_rows(150, right)] == [150] * 4
    assert [len(part) for (part,) in cut_rows(151, right)] == [600]
    assert [len(part) for (part,) in cut_rows(151, right[:0])] == [0]


def test_nothing_is_cut_for_another_device_or_more_cores_than_a_team(monkeypatch):
    right = torch.empty(4, 1100)
    assert len(cut_columns(right)) > 1
    assert len(cut_columns(right.to("meta"))) == 1
    with torch.inference_mode():
        assert len(cut_columns(right)) == 1
    monkeypatch.setattr(teamwork, "_MOST_CORES", 1)
    assert len(cut_columns(right)) == 1


def test_shared_work_may_share_its_own_and_be_called_from_anywhere():
    def work(piece):
        return sum(share_out(lambda part: part * piece, range(4)))

    with ThreadPoolExecutor(2) as callers:
        outcomes = [callers.submit(share_out, work, range(10)) for _ in range(4)]
        assert all(outcome.result(PATIENCE_S) == [6 * piece for piece in range(10)] for outcome in outcomes)


def test_an_interrupt_leaves_the_threads_as_they_were():
    def work(piece):
        begun.append(piece)
        raise KeyboardInterrupt

    begun: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        share_out(work, range(50))
    assert torch.get_num_threads() == 2 and len(begun) <= 2, "no other piece is begun"
