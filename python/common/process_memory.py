"""The memory of this process: how much it was at most, and what goes back to the system early."""

import ctypes
import sys
from pathlib import Path

from common.hardware import GIB

_MUCH_FREE = GIB // 2  # in the heap; less would cost more time than it is worth


def peak_rss_gib(*, with_children: bool = False) -> float:
    """Return this process's largest resident memory so far in GiB; with children, that of one that ended, if larger."""
    import resource

    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    peak = max(resource.getrusage(who).ru_maxrss for who in whose[: 1 + with_children])
    return peak * (1 if sys.platform == "darwin" else 1024) / GIB


def peak_gpu_gib() -> float | None:
    """Return the most memory that this process has held on a CUDA device; None without one."""
    import torch

    return torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else None


def give_back_pages(folder: Path) -> None:
    """Take the mapped weights of ``folder`` out of this process's memory; they come back when they are read.

    Linux only, and for files of one's own only.
    """
    pageout = 21  # MADV_PAGEOUT of <sys/mman.h>: unlike MADV_DONTNEED it loses nothing that was written
    try:
        lines = Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines()
        madvise = ctypes.CDLL(None).madvise
    except (AttributeError, OSError, TypeError):
        return
    files = {str(path.resolve()) for path in folder.glob("*.safetensors")}  # the hub's cache has links
    for line in lines:
        place, *_, path = line.split(maxsplit=5)
        if path in files:
            start, end = (int(address, 16) for address in place.split("-"))
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), pageout)


def return_freed_memory() -> bool:
    """Have freed tensors of 8 MiB and more go back to the system at once; return whether this C library can (glibc).

    By default glibc keeps what is freed below 32 MiB for itself. Quantising and checkpointed training free many such
    blocks between few that stay, and the holes are of no use: with Mistral-7B's shape, they took 0.3 GiB a layer.
    Of the end of its heap, where small tensors come and go, it keeps 256 MiB: once told the first limit it would keep
    no more than 128 KiB.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of <malloc.h>
    try:
        mallopt = ctypes.CDLL(None).mallopt
        return mallopt(mmap_threshold, 8 * 2**20) == 1 and mallopt(trim_threshold, 256 * 2**20) == 1
    except (AttributeError, OSError, TypeError):
        return False


def trim_heap() -> bool:
    """Give what lies free between blocks in use back to the system, where that is much (glibc); return whether it did.

    Packs differ in length, and what one leaves free seldom fits the next.
    """
    try:
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = _MallocState
        return library.mallinfo2().fordblks > _MUCH_FREE and library.malloc_trim(0) == 1
    except (AttributeError, OSError, TypeError):
        return False


class _MallocState(ctypes.Structure):
    """``struct mallinfo2`` of <malloc.h>; ``fordblks`` are the bytes free in the heap."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = [(name, ctypes.c_size_t) for name in _names]
