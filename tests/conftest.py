"""Fixtures of more than one test module."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def toy_session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``$TOY``, once for all: the workers of a pool have the environment that the first of them had."""
    directory = tmp_path_factory.mktemp("toy")
    os.environ["TOY"] = str(directory)
    return directory


@pytest.fixture
def toy(toy_session: Path) -> Iterator[Path]:
    """The empty directory that the claims of tests/toy_claims.py write to and wait for."""
    yield toy_session
    for file in toy_session.iterdir():
        file.unlink()
