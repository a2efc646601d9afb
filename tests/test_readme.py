"""The README's Python runs and prints what it says."""

import doctest
from pathlib import Path


def test_examples_print_what_the_readme_says() -> None:
    readme = Path(__file__).parent.parent / "README.md"
    outcome = doctest.testfile(str(readme), module_relative=False)
    assert outcome.failed == 0
    assert outcome.attempted >= 5
