"""Runs commands without a network, where the machine permits it."""

from __future__ import annotations

import subprocess


def without_network(mounts: bool = False) -> list[str]:
    """What to put before a command to run it without network, with `mounts` of its own too; empty if that is not permitted."""
    flags = ["--net", *(["--mount"] if mounts else [])]
    for command in (["unshare", *flags], ["unshare", "--map-root-user", *flags]):
        try:
            if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
                return command
        except OSError:  # there is no unshare
            break
    return []
