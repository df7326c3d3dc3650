"""What all tests of runs share."""

from run_helpers import temporary_files  # noqa: F401
