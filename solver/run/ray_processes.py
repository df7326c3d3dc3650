"""The workers of a run on a Ray cluster, from the options of the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from solver.errors import InputError
from solver.model.adapter_folder import adapter_identity
from solver.model.folder import SHIPPED, folder_identity
from solver.run.executors.ray import RayExecutor
from solver.run.executors.ray_cluster import RayCluster
from solver.run.executors.ray_node import SharedFolder
from solver.run.placement import weight_bytes
from solver.run.types import RunOptions


def ray_executor(
    options: RunOptions, scratch: Path, keep: Callable[[], bool], command: Sequence[str] | None = None
) -> RayExecutor:
    """Join the cluster that the settings name. `keep()` says at the end whether adapters stay on their nodes.

    `command`: that of a worker process on a node, if it is not the usual one.

    Raises InputError if Ray is not installed, no cluster answers, or it lacks what the settings ask for.
    """
    assert options.model is not None
    settings = options.settings
    if settings.train.shared:
        raise InputError("--executor ray: train.shared = true needs one machine: adapters stay on the node that made them")
    folders = [SharedFolder(options.model.absolute(), folder_identity(options.model), "model", _shipped_name(options.model))]
    if options.adapter is not None:
        folders.append(SharedFolder(options.adapter.absolute(), adapter_identity(options.adapter), "adapter"))
    cluster = RayCluster(settings.workers.address, scratch)
    try:
        return RayExecutor(cluster, settings, scratch, folders, weight_bytes(options.model), keep, command)
    except BaseException as error:
        cluster.close()
        if isinstance(error, RuntimeError):
            raise InputError(f"--address {settings.workers.address}: {error}") from None
        raise


def _shipped_name(model: Path) -> str:
    return next((name for name, folder in SHIPPED.items() if folder == model), "")
