"""The clone that each test of the scripts gets."""

import pytest
from clones import Clone


@pytest.fixture
def clone(tmp_path):
    root = tmp_path / "una carpeta" / "cañón"
    root.mkdir(parents=True)
    clone = Clone(root)
    yield clone
    clone.end_all()
