"""Fixtures of the bad conditions: a kitchen, a run that trained undisturbed, and one that was stopped half-way."""

import os
import shutil
from pathlib import Path

import pytest
from cooking import Kitchen, ask_to_stop, write_data


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def cooked(tmp_path_factory, data) -> Path:
    """A runs folder with the run ``finished``, and the run ``stopped`` with checkpoints of its steps 3 and 4."""
    folder = tmp_path_factory.mktemp("cooked")
    with pytest.MonkeyPatch.context() as patch:
        kitchen = Kitchen(folder, data, patch)
        code, said = kitchen.train("finished")
        assert code == 0, said
        with kitchen.at_step(4, ask_to_stop):
            code, said = kitchen.train("stopped")
        assert code == 75, said
    return kitchen.runs


@pytest.fixture
def kitchen(tmp_path, cooked, data, monkeypatch) -> Kitchen:
    """A kitchen of the test's own, with copies of the two runs."""
    kitchen = Kitchen(tmp_path, data, monkeypatch)
    shutil.copytree(cooked, kitchen.runs)
    umask = os.umask(0o022)
    yield kitchen
    os.umask(umask)
