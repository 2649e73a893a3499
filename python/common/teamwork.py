"""Work on a CPU cut into pieces, of which each core takes the next when it is done with one.

OpenMP, which PyTorch's operations use, gives each core the same share and waits for the slowest. Cores often differ: a
virtual core whose physical core also serves another machine is half as fast as one that has it to itself, and that
changes all the time; some processors have slow cores by design. A piece is computed by one thread, so its bits do not
depend on the core that took it.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

_MOST_CORES = 4  # two have been measured; with many cores, pieces would be too few to even anything out
# Of a product in a piece. With 4,096 rows in bf16 they take 2 MiB, as much as a core's cache.
_COLUMNS = 256

Piece = TypeVar("Piece")
Result = TypeVar("Result")


@torch.no_grad()
def share_out(work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
    """Return what ``work`` returned for each piece, in their order; nothing of it is recorded for a backward pass.

    With fewer pieces than cores each is left to all cores. What a piece raises is raised when no core is at work any
    more, and no other piece is begun; of several errors, one.
    """
    threads = torch.get_num_threads()
    if not _is_team(threads) or len(pieces) < threads:
        return [work(piece) for piece in pieces]
    results, turn = [None] * len(pieces), iter(range(len(pieces)))  # of which each number is taken once

    @torch.no_grad()  # each thread has a mode of its own
    def take_pieces() -> None:
        try:
            for number in turn:
                results[number] = work(pieces[number])
        except BaseException:
            list(turn)  # so that nothing is left for the others
            raise

    helpers = []
    try:
        torch.set_num_threads(1)
        helpers += [_helpers(threads - 1).submit(take_pieces) for _ in range(threads - 1)]
        take_pieces()
    finally:
        try:
            wait(helpers)
        finally:
            torch.set_num_threads(threads)
    for helper in helpers:
        helper.result()
    return results


def multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    """Write the product of left [rows, inner] and right [inner, columns] to ``out`` [rows, columns], on any device."""
    share_out(lambda part: torch.mm(left, part[0], out=part[1]), cut_columns(right, out))


def cut_columns(*tensors: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Cut the columns of ``tensors`` at the same places: the pieces of a product, a single one where nobody shares."""
    return _cut(tensors, 1, _COLUMNS)


def cut_rows(size: int, *tensors: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Cut the rows of ``tensors`` at the same places, ``size`` to a piece; a single piece where nobody shares."""
    return _cut(tensors, 0, size)


def has_few_cores() -> bool:
    """Whether so few threads compute that work can be dealt out to each of them."""
    return torch.get_num_threads() <= _MOST_CORES


def _cut(tensors: Sequence[torch.Tensor], dim: int, size: int) -> list[tuple[torch.Tensor, ...]]:
    threads, whole = torch.get_num_threads(), tensors[0].shape[dim]
    if tensors[0].device.type != "cpu" or not _is_team(threads) or whole < 2 * threads * size:
        size = max(1, whole)  # two pieces a core are the fewest that even anything out
    return list(zip(*(tensor.split(size, dim) for tensor in tensors), strict=True))


def _is_team(threads: int) -> bool:
    """Whether so many threads share: not those of one core, nor in a mode that helpers would not be in."""
    if not 1 < threads <= _MOST_CORES or torch.is_inference_mode_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    return not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) >= threads


@cache
def _helpers(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, "share_out", initializer=torch.set_num_threads, initargs=(1,))
