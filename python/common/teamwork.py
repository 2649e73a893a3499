"""Work on a CPU cut into pieces, of which each core takes the next when it is done with one.

OpenMP, which PyTorch's operations use, gives each core the same share and waits for the slowest. Cores often differ: a
virtual core whose physical core also serves another machine, as on most that are rented, is half as fast as one that has
it to itself, and that changes many times a second; some processors have slow cores by design. A piece is computed by
one thread, so its bits depend neither on the core that took it nor on how many there are.
"""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

_MOST_WORKERS = 8  # more have not been measured: beyond, all is left to OpenMP
_COLUMNS = 256  # of a product in a piece: of 4,096 rows of a weight in bf16 they take 2 MiB, as much as a core's cache

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def share_out(work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> list[Result]:
    """Return what ``work`` returned for each piece, in their order; nothing in it is recorded for a backward pass."""
    threads = torch.get_num_threads()
    pieces = list(enumerate(pieces))
    if not _are_shared(threads) or len(pieces) < 2:
        return [work(piece) for _, piece in pieces]
    results = [None] * len(pieces)
    waiting, taking = iter(pieces), threading.Lock()

    def take_pieces() -> None:
        with torch.no_grad():
            while True:
                with taking:
                    number, piece = next(waiting, (None, None))
                if number is None:
                    return
                results[number] = work(piece)

    torch.set_num_threads(1)
    try:
        helpers = [_helpers(threads - 1).submit(take_pieces) for _ in range(threads - 1)]
        take_pieces()
        for helper in helpers:
            helper.result()
    finally:
        torch.set_num_threads(threads)
    return results


def multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor) -> None:
    """Write the product of left [rows, inner] and right [inner, columns] to ``out``, columns shared out."""
    if left.device.type != "cpu" or not _are_shared(torch.get_num_threads()):
        torch.mm(left, right, out=out)
        return
    share_out(lambda part: torch.mm(left, part[0], out=part[1]), column_pieces(right, out))


def column_pieces(*tensors: torch.Tensor) -> Iterable[tuple[torch.Tensor, ...]]:
    """Cut the columns of ``tensors`` at the same places, as pieces of a product."""
    if not _are_shared(torch.get_num_threads()):
        return [tensors]
    return zip(*(tensor.split(_COLUMNS, dim=1) for tensor in tensors), strict=True)


def _are_shared(threads: int) -> bool:
    return 1 < threads <= _MOST_WORKERS


@cache
def _helpers(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "share_out", initializer=torch.set_num_threads, initargs=(1,))
