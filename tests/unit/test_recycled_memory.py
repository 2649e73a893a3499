"""Memory that is used again: when nothing lies in it any more, and never before."""

import pytest
import torch

from common import recycled_memory
from common.recycled_memory import give_back_spare, new_rows

_LIKE = torch.empty(0, dtype=torch.bfloat16)


@pytest.fixture(autouse=True)
def _nothing_spare():
    give_back_spare()
    yield
    give_back_spare()


def test_a_tensor_has_the_shape_dtype_and_alignment_of_pytorchs_own():
    tensor = new_rows(_LIKE, 1001, 4, 256)
    assert tensor.shape == (1001, 4, 256) and tensor.dtype == torch.bfloat16 and tensor.is_contiguous()
    assert tensor.data_ptr() % 64 == 0


def test_memory_is_used_again_when_the_last_view_is_gone():
    first = new_rows(_LIKE, 1024, 1024)
    place, view = first.data_ptr(), first[5:, 7]
    del first
    other = new_rows(_LIKE, 1024, 1024)
    assert other.data_ptr() != place  # the view still lies there
    del view
    assert new_rows(_LIKE, 1024, 1024).data_ptr() == place


def test_what_a_backward_pass_needs_is_not_used_again():
    kept = new_rows(torch.empty(0), 1024, 1024).fill_(3)
    factor = torch.ones(1024, 1024, requires_grad=True)
    product = factor * kept
    del kept
    new_rows(torch.empty(0), 1024, 1024).fill_(7)
    product.sum().backward()
    assert torch.all(factor.grad == 3)


def test_shorter_tensors_fit_and_longer_ones_take_the_place_of_shorter():
    long = new_rows(_LIKE, 2048, 1024)
    place = long.data_ptr()
    del long
    short = new_rows(_LIKE, 700, 1024)
    assert short.data_ptr() == place
    del short
    longest = new_rows(_LIKE, 4096, 1024)
    assert not recycled_memory._spare[2048]
    del longest
    assert [block.size for block in recycled_memory._spare[2048]] == [4096 * 2048]


@pytest.mark.parametrize("rows", [0, 1, 100])
def test_small_tensors_are_pytorchs_own(rows):
    del (small := {0: new_rows(_LIKE, rows, 1024)})[0]
    assert small == {} and not recycled_memory._spare[2048]


def test_spare_memory_can_be_given_back():
    del (large := {0: new_rows(_LIKE, 1024, 1024)})[0]
    assert large == {} and len(recycled_memory._spare[2048]) == 1
    give_back_spare()
    assert not recycled_memory._spare[2048]
