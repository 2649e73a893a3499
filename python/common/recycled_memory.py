"""Memory of large tensors that the next pack uses again, in place of giving it back to the system and asking anew.

A step of a 7B frees tens of GiB and asks for them again. The system zeroes what it hands out; a virtual machine whose
host takes back what lay free for two seconds waits for the host besides: then a GiB costs seconds, otherwise a tenth of
one. glibc's heap would keep what is freed, but in holes into which the tensors of a pack of another length do not fit.
"""

import math
import weakref
from collections import defaultdict

import numpy as np
import torch

_LARGE = 2**20  # bytes; what is smaller stays in the C library's heap anyway
_NOTHING = np.empty(0, np.uint8)
_spare: dict[int, list[np.ndarray]] = defaultdict(list)  # by bytes a row
_longest: dict[int, int] = defaultdict(int)  # in bytes, likewise


def new_rows(like: torch.Tensor, *shape: int) -> torch.Tensor:
    """Return a tensor of this shape, with anything in it, of the dtype of ``like`` and where ``like`` is.

    On a CPU a large one lies in memory that others with as many bytes a row have left. A piece of it is free again when
    nothing refers to its tensor, or to a view of it, any more. There are never more pieces than were in use at once.
    """
    row = like.itemsize * math.prod(shape[1:])
    size = row * shape[0]
    if like.device.type != "cpu" or size < _LARGE:
        return like.new_empty(shape)
    spare = _spare[row]
    block = spare.pop() if spare else _NOTHING
    if block.size < size:  # too short: a longer one in its place
        _longest[row] = max(_longest[row], size)
        block = torch.empty(_longest[row], dtype=torch.uint8).numpy()
    lent = block[:size]  # PyTorch holds this very object as long as the memory is in use
    weakref.finalize(lent, spare.append, block).atexit = False
    return torch.from_numpy(lent).view(like.dtype).view(shape)


def give_back_spare() -> None:
    """Give what is free back to the system."""
    for spare in _spare.values():
        spare.clear()
    _longest.clear()
