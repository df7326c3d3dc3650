"""Which workers the nodes of a cluster get: one for each GPU, or on clusters without GPUs one for the processors of each node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from solver.config import Settings
from solver.errors import InputError
from solver.run.executors.ray_cluster import ClusterNode, Share
from solver.run.placement import IMPORTED, ON_CPU, ON_GPU


@dataclass(frozen=True)
class Shares:
    """Cuts nodes into shares for workers, always in the same way."""

    settings: Settings
    on_gpu: bool
    need: float  # bytes of the host that a worker needs

    @staticmethod
    def of(settings: Settings, nodes: Sequence[ClusterNode], weights: int) -> Shares:
        """For a model whose files have `weights` bytes. Raises InputError if the settings ask for GPUs that no node has."""
        gpus = int(sum(node.gpus for node in nodes))
        wanted = settings.workers.devices
        on_gpu = settings.model.device != "cpu" and (gpus > 0 or settings.model.device != "auto" or wanted is not None)
        if on_gpu and gpus < (wanted or 1):
            there = "no node of the cluster has a GPU" if not gpus else f"the cluster has {gpus} GPU{'s' * (gpus > 1)}"
            asked = f"model.device = {settings.model.device}" + (f" and workers.devices = {wanted}" if wanted is not None else "")
            raise InputError(f"{asked}, but {there}")
        need = settings.workers.memory or IMPORTED + weights * (ON_GPU if on_gpu else ON_CPU)
        return Shares(settings, on_gpu, need)

    def cut(self, nodes: Sequence[ClusterNode]) -> list[tuple[ClusterNode, Share]]:
        """The share of every worker, with its node. `workers.devices` limits the GPUs of all nodes together."""
        found: list[tuple[ClusterNode, Share]] = []
        left = self.settings.workers.devices or float("inf")
        for node in nodes:
            devices = min(int(node.gpus), left) if self.on_gpu else int(node.cpus >= 1)
            left -= devices if self.on_gpu else 0
            count = int(devices) * self.settings.workers.per_device
            if node.memory:
                count = min(count, max(1, int(node.memory // self.need)))
            if not self.on_gpu:
                count = min(count, int(node.cpus))
            if count:
                found += [(node, self._share(node, count))] * count
        return found

    def worker_settings(self, share: Share) -> Settings:
        """The settings of a worker with this share. Ray shows it no GPU but its own."""
        model = self.settings.model
        if self.on_gpu:
            model = model.model_copy(update={"device": "cuda:0"})
        elif not model.threads and self.settings.workers.per_device > 1:
            model = model.model_copy(update={"threads": int(share.cpus)})
        return self.settings.model_copy(update={"model": model})

    def environment(self, share: Share) -> Mapping[str, str]:
        """What is added to the environment of a worker with this share."""
        threads = self.worker_settings(share).model.threads
        return {"OMP_NUM_THREADS": str(threads)} if threads else {}

    def _share(self, node: ClusterNode, count: int) -> Share:
        if self.on_gpu:
            return Share(1.0 if node.cpus >= count else 0.0, 1.0 / self.settings.workers.per_device)
        return Share(float(int(node.cpus) // count), 0.0)


def distinctly_named(nodes: Sequence[ClusterNode]) -> list[ClusterNode]:
    """The nodes with distinct names for people: where several have the same address, the beginning of their id is added."""
    hosts = [node.host for node in nodes]
    return [replace(node, host=f"{node.host}/{node.id[:6]}") if hosts.count(node.host) > 1 else node for node in nodes]
