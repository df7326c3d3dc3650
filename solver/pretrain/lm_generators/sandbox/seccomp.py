"""The system call filter: a program for the kernel that allows a process to compute, to get memory, and to write its answer.

Every other system call, and every one through another interface of the kernel, ends the process at once with SIGSYS. This module
needs nothing but the standard library, because the locked process imports it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

ANSWER_FD = 1  # the only file descriptor that the process may write to

ALLOW, KILL = 0x7FFF0000, 0x80000000  # SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
LOAD, JUMP_IF_EQUAL, JUMP_IF_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_JMP|JSET|K, BPF_RET|K

PROT_EXEC, MAP_ANONYMOUS = 4, 0x20


class Machine(NamedTuple):
    """A processor architecture: the kernel's number of it, and the numbers of the allowed system calls."""

    audit: int  # AUDIT_ARCH_*
    calls: Mapping[str, int]


MACHINES: Mapping[str, Machine] = {
    "x86_64": Machine(
        0xC000003E,
        {
            "write": 1,
            "mmap": 9,
            "mprotect": 10,
            "munmap": 11,
            "brk": 12,
            "rt_sigreturn": 15,
            "mremap": 25,
            "madvise": 28,
            "clock_gettime": 228,
            "exit_group": 231,
            "getrandom": 318,
        },
    ),
    "aarch64": Machine(
        0xC00000B7,
        {
            "write": 64,
            "exit_group": 94,
            "clock_gettime": 113,
            "rt_sigreturn": 139,
            "brk": 214,
            "munmap": 215,
            "mremap": 216,
            "mmap": 222,
            "mprotect": 226,
            "madvise": 233,
            "getrandom": 278,
        },
    ),
}


class Instruction(NamedTuple):
    """An instruction of classic BPF. A jump skips `if_true` or `if_false` instructions."""

    code: int
    if_true: int
    if_false: int
    value: int


def filter_program(machine: Machine) -> list[Instruction]:
    """The filter for one architecture. Memory can be neither made executable nor mapped from a file."""
    program = [_load(ARCHITECTURE), _skip_if(JUMP_IF_EQUAL, machine.audit, 1, 0), _return(KILL), _load(NUMBER)]
    for name, number in machine.calls.items():
        block = [*_conditions(name), _return(ALLOW)]
        program += [_skip_if(JUMP_IF_EQUAL, number, 0, len(block)), *block]
    return [*program, _return(KILL)]


def packed(program: list[Instruction]) -> bytes:
    """The instructions as an array of struct sock_filter."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _conditions(name: str) -> list[Instruction]:
    """What the arguments of an allowed call must be; ends the process otherwise."""
    if name == "write":
        return [*_must_equal(0, 0, high=True), *_must_equal(0, ANSWER_FD)]
    if name == "mmap":
        return [*_must_lack(2, PROT_EXEC), *_must_have(3, MAP_ANONYMOUS)]
    return _must_lack(2, PROT_EXEC) if name == "mprotect" else []


def _must_equal(argument: int, value: int, high: bool = False) -> list[Instruction]:
    return [_load(_half(argument, high)), _skip_if(JUMP_IF_EQUAL, value, 1, 0), _return(KILL)]


def _must_lack(argument: int, bits: int) -> list[Instruction]:
    return [_load(_half(argument)), _skip_if(JUMP_IF_ANY_BIT, bits, 0, 1), _return(KILL)]


def _must_have(argument: int, bits: int) -> list[Instruction]:
    return [_load(_half(argument)), _skip_if(JUMP_IF_ANY_BIT, bits, 1, 0), _return(KILL)]


def _half(argument: int, high: bool = False) -> int:
    """The offset of the lower or the higher 32 bits of an argument, on little-endian machines."""
    return ARGUMENTS + 8 * argument + 4 * high


def _load(offset: int) -> Instruction:
    return Instruction(LOAD, 0, 0, offset)


def _skip_if(test: int, value: int, if_true: int, if_false: int) -> Instruction:
    return Instruction(test, if_true, if_false, value)


def _return(action: int) -> Instruction:
    return Instruction(RETURN, 0, 0, action)
