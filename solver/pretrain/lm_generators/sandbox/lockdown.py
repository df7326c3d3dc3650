"""Takes from the running process what it can do, layer by layer, before it runs code that nobody has read.

limits      No time, memory, file, descriptor or process beyond a bound; no privileges.
namespaces  A user, network, mount, IPC and host name namespace of its own: no network device, an empty folder as the root.
seccomp     The system call filter of `sandbox.seccomp`.

Nothing of it can be undone by the process. This module needs nothing but the standard library and Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from solver.pretrain.lm_generators.sandbox.seccomp import MACHINES, filter_program, packed

LIMITS, NAMESPACES, SECCOMP = "limits", "namespaces", "seccomp"
UNPRIVILEGED = 65534  # the user and group "nobody", which root becomes

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWIPC, _CLONE_NEWUSER, _CLONE_NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x40000000
_CAPABILITY_VERSION = 0x20080522


class LayerMissing(Exception):
    """The system does not offer a layer."""

    def __init__(self, layer: str, reason: str) -> None:
        super().__init__(layer, reason)
        self.layer, self.reason = layer, reason


@dataclass(frozen=True)
class Limits:
    """The bounds of a process. Wall time and the size of its answer are bounded by its parent."""

    cpu_seconds: int
    memory: int  # bytes of address space


class _Filter(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def lock(layers: Collection[str], limits: Limits, parent: int, empty_folder: str) -> None:
    """Apply the layers to this process, which may have no other thread. Afterwards ANSWER_FD is its only open file.

    `parent` is the process with which it ends. Raises LayerMissing.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    folder = os.open(empty_folder, os.O_RDONLY | os.O_DIRECTORY)
    with contextlib.suppress(OSError):  # where memory runs out all the same, this process is the one to be killed
        score = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(score, b"1000")
        os.close(score)
    _become_unprivileged()
    _end_with(libc, parent)
    if NAMESPACES in layers:
        _enter_namespaces(libc, folder)
    for descriptor in (0, 2, folder):
        os.close(descriptor)
    _set_limits(libc, limits)
    _drop_capabilities(libc)
    if SECCOMP in layers:
        _filter_system_calls(libc)


def _become_unprivileged() -> None:
    """Leave root, whom not all limits bind.

    A root who cannot change the user has no privilege to lose, like that of a container in which an ordinary user is called root.
    """
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
        with contextlib.suppress(OSError):
            os.setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)


def _end_with(libc: ctypes.CDLL, parent: int) -> None:
    """Have the kernel kill this process when its parent ends. A change of the user would undo it."""
    _prctl(libc, _PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def _enter_namespaces(libc: ctypes.CDLL, folder: int) -> None:
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWIPC | _CLONE_NEWUTS) != 0:
        raise LayerMissing(NAMESPACES, f"unshare: {os.strerror(ctypes.get_errno())}")
    try:
        os.fchdir(folder)
        os.chroot(".")
        os.chdir("/")
    except OSError as error:
        raise LayerMissing(NAMESPACES, f"chroot: {error.strerror}") from None


def _set_limits(libc: ctypes.CDLL, limits: Limits) -> None:
    bounds = {
        resource.RLIMIT_AS: (limits.memory, limits.memory),
        # SIGXCPU ends the process at the first bound, SIGKILL at the second one
        resource.RLIMIT_CPU: (limits.cpu_seconds, limits.cpu_seconds + 1),
        resource.RLIMIT_NPROC: (0, 0),
        resource.RLIMIT_NOFILE: (0, 0),  # of descriptors to come
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
    }
    # without this, a core dump would still go to a handler program, if the system has one, whatever RLIMIT_CORE says
    _prctl(libc, _PR_SET_DUMPABLE, ctypes.c_ulong(0))
    for kind, bound in bounds.items():
        try:
            resource.setrlimit(kind, bound)
        except (OSError, ValueError) as error:
            raise LayerMissing(LIMITS, f"setrlimit: {error}") from None


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Give up those that a new user namespace came with, and the chance to get any by running a program."""
    header = _CapabilityHeader(_CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    if libc.capset(ctypes.byref(header), ctypes.byref(none)) != 0:
        raise LayerMissing(LIMITS, f"capset: {os.strerror(ctypes.get_errno())}")
    if _prctl(libc, _PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1)) != 0:
        raise LayerMissing(LIMITS, f"no_new_privs: {os.strerror(ctypes.get_errno())}")


def _filter_system_calls(libc: ctypes.CDLL) -> None:
    machine = MACHINES.get(platform.machine())
    if machine is None or sys.byteorder != "little" or sys.maxsize < 2**32:
        raise LayerMissing(SECCOMP, f"no filter for the processor {platform.machine()}")
    program = filter_program(machine)
    loaded = _Filter(len(program), packed(program))
    if _prctl(libc, _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(loaded)) != 0:
        raise LayerMissing(SECCOMP, f"prctl: {os.strerror(ctypes.get_errno())}")


def _prctl(libc: ctypes.CDLL, option: int, *arguments: Any) -> int:
    """Call prctl. Arguments that it does not use have to be 0, as whole machine words."""
    return int(libc.prctl(option, *arguments, *[ctypes.c_ulong(0)] * (4 - len(arguments))))
