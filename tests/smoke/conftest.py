"""Fixtures of the smoke tests: one folder for all their runs, and one run that trained undisturbed."""

import pytest
from trainings import SHORT, Trainings


@pytest.fixture(scope="session")
def trainings(tmp_path_factory) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def finished(trainings) -> str:
    """The name of a short run that trained to its end, undisturbed."""
    code, output = trainings.run(*SHORT, "--run", "finished")
    assert code == 0, output
    return "finished"
