import pytest

# Asserts in modules that tests share say what they compared, as those in the tests do.
pytest.register_assert_rewrite("tests.harness.articles", "tests.races.machine_world")
