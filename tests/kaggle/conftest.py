"""What all tests of the notebook share."""

from pathlib import Path

import pytest
from kaggle_machine import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with the stand-in's data set attached."""
    made = Machine(tmp_path)
    made.attach_solver()
    return made
