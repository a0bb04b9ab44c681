"""Fixtures for the tests of weighting methods."""

import pytest
from helpers import weighting_problem


@pytest.fixture(scope="session")
def follow():
    return weighting_problem.follow


@pytest.fixture(scope="session")
def problem():
    return weighting_problem.Problem()
