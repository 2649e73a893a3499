"""What goes back to the system early. Run: pytest tests/unit/test_process_memory.py"""

import mmap
import os
import platform
import subprocess
import sys

import psutil
import pytest

from common import process_memory
from common.runs import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere pages cannot be given back so")
def test_pages_of_a_mapped_file_are_given_back_and_keep_what_was_written(tmp_path):
    content = os.urandom(2**25)
    (tmp_path / "blob").write_bytes(content)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").symlink_to("../blob")
    with (tmp_path / "blob").open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped[:4] = b"mine"
        assert mapped[4:] == content[4:]
        before = psutil.Process().memory_info().rss
        process_memory.give_back_pages(tmp_path / "model")
        assert before - psutil.Process().memory_info().rss > 2**24
        assert mapped[:4] == b"mine" and mapped[4:] == content[4:]


_FREE_BELOW_A_PIN = """
import sys
import numpy, psutil
from common.process_memory import return_freed_memory
if sys.argv[1] == "with":
    assert return_freed_memory()
del (first := {0: numpy.ones(3 * 2**20)})[0]  # 24 MiB; from here on glibc takes such blocks from its own heap
block = {0: numpy.ones(3 * 2**20)}
pin = numpy.ones(2**12)
before = psutil.Process().memory_info().rss
del block[0]
print(before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
def test_freed_tensors_go_back_to_the_system():
    def freed(how):
        command = [sys.executable, "-c", _FREE_BELOW_A_PIN, how]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return int(done.stdout)

    assert freed("without") < 2**20 and freed("with") > 20 * 2**20


_TRIM = """
import numpy, psutil
from common.process_memory import trim_heap
del (first := {0: numpy.ones(3 * 2**20)})[0]  # 24 MiB; from here on glibc takes such blocks from its own heap
blocks, pins = {}, {}
for number in range(int(sys.argv[1])):
    blocks[number], pins[number] = numpy.ones(2 * 2**20), numpy.ones(2**12)
before = psutil.Process().memory_info().rss
blocks.clear()
print(trim_heap(), before - psutil.Process().memory_info().rss)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
@pytest.mark.parametrize(("blocks", "trimmed"), [(8, False), (48, True)])
def test_the_heap_is_trimmed_where_much_is_free(blocks, trimmed):
    """Of 16 MiB each, between blocks that stay."""
    command = [sys.executable, "-c", "import sys" + _TRIM, str(blocks)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    said = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.split()
    assert said[0] == str(trimmed) and (int(said[1]) > (blocks - 2) * 2**24) == trimmed
