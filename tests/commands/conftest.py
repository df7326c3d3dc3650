"""What all tests of commands share."""

from run_helpers import temporary_files  # noqa: F401
