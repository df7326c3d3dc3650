"""What all tests of workers share."""

from run_helpers import temporary_files  # noqa: F401
