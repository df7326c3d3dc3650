from __future__ import annotations

from pathlib import Path

import pytest

from solver.model.folder import folder_identity


@pytest.fixture(scope="session")
def generator(tiny_base: Path) -> str:
    """The fingerprint of the tiny model."""
    return folder_identity(tiny_base)
