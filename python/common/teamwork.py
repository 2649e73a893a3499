"""Work on a CPU cut into pieces, of which each core takes the next when it is done with one.

OpenMP, which PyTorch's operations use, gives each core the same share and waits for the slowest. Cores often differ: a
virtual core whose physical core also serves another machine, as on most that are rented, is half as fast as one that
has it to itself, and that changes many times a second; some processors have slow cores by design. A piece is computed
by one thread, so its bits do not depend on the core that took it.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import count
from typing import TypeVar

import torch

_MOST_CORES = 8  # more have not been measured: beyond, all is left to OpenMP
_COLUMNS = (
    256  # of a product in a piece: of a weight with 4,096 rows in bf16 they take 2 MiB, as much as a core's cache
)

Piece = TypeVar("Piece")
Result = TypeVar("Result")


@torch.no_grad()
def share_out(work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
    """Return what ``work`` returned for each piece, in their order; nothing of it is recorded for a backward pass.

    What the first piece that fails raises is raised when no core is at work any more.
    """
    threads = torch.get_num_threads()
    if not _is_team(threads) or len(pieces) < 2:
        return [work(piece) for piece in pieces]
    results, turn = [None] * len(pieces), count()  # next(turn) is atomic

    @torch.no_grad()  # each thread has a mode of its own
    def take_pieces() -> None:
        while (number := next(turn)) < len(pieces):
            results[number] = work(pieces[number])

    torch.set_num_threads(1)
    helpers = [_helpers(threads - 1).submit(take_pieces) for _ in range(threads - 1)]
    try:
        take_pieces()
    finally:
        wait(helpers)
        torch.set_num_threads(threads)
    for helper in helpers:
        helper.result()
    return results


def multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    """Write the product of left [rows, inner] and right [inner, columns] to ``out`` [rows, columns], on any device."""
    share_out(lambda part: torch.mm(left, part[0], out=part[1]), columns(right, out))


def columns(*tensors: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Cut the columns of ``tensors`` at the same places: the pieces of a product, a single one where nobody shares."""
    alone = tensors[0].device.type != "cpu" or not _is_team(torch.get_num_threads())
    size = tensors[0].shape[1] if alone else _COLUMNS
    return list(zip(*(tensor.split(size, dim=1) for tensor in tensors), strict=True))


def _is_team(threads: int) -> bool:
    return 1 < threads <= _MOST_CORES


@cache
def _helpers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "share_out", initializer=torch.set_num_threads, initargs=(1,))
