"""Hostile code in the sandbox: every attempt is stopped and counted, and whatever a process writes is read without harm."""

from __future__ import annotations

import json
import os
import platform
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solver.arc.task import Pair
from solver.errors import InputError
from solver.pretrain.lm_generators.sandbox import lockdown, process, seccomp
from solver.pretrain.lm_generators.sandbox.answers import read_answer
from solver.pretrain.lm_generators.sandbox.lockdown import LayerMissing
from solver.pretrain.lm_generators.sandbox.process import LAYERS, Form, Sandbox, open_sandbox
from solver.pretrain.lm_generators.verdicts import REASONS, Refused

FORMS: tuple[Form, ...] = ("full", "no-namespaces")
GOOD = """
from random import Random
def generate(rng):
    shown = [[rng.randrange(10) for _ in range(3)] for _ in range(2)]
    return shown, shown[::-1]
"""
# how code gets what its builtins do not give it: modules that the process has loaded, through objects that it can reach
REACH = """
os = next(c for c in ().__class__.__base__.__subclasses__() if c.__name__ == "_wrap_close").__init__.__globals__
modules = os["sys"].modules
def generate(rng):
    return [[1]], [[2]]
"""
LIBC = REACH + "libc = modules['ctypes'].CDLL(None)\n"


@contextmanager
def opened(form: Form) -> Iterator[Sandbox]:
    """A sandbox of the form; skips where the system does not offer it."""
    with ExitStack() as stack:
        try:
            sandbox = stack.enter_context(open_sandbox(form))
        except InputError as error:
            pytest.skip(str(error))
        yield sandbox


@pytest.fixture(scope="module", params=FORMS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with opened(request.param) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def filtered() -> Iterator[Sandbox]:
    with opened("no-namespaces") as sandbox:
        yield sandbox


def refusal(sandbox: Sandbox, code: str) -> str:
    """The reason for which code is refused, or what it gave."""
    try:
        return f"gave {len(sandbox.draw(code, range(4), 2))} pairs"
    except Refused as refused:
        return refused.reason


def test_good_code_gives_the_pairs_of_its_seeds(sandbox: Sandbox) -> None:
    drawn = sandbox.draw(GOOD, range(10), 5)
    assert list(drawn) == [0, 1, 2, 3, 4]
    assert all(pair.output is not None and (pair.output == pair.input[::-1]).all() for pair in drawn.values())
    assert len({pair.input.tobytes() for pair in drawn.values()}) == 5
    other_order = sandbox.draw(GOOD, [4, 0], 2)
    assert all((other_order[seed].input == drawn[seed].input).all() for seed in (0, 4))


FAULTS = {
    "not Python": ("def generate(rng:", "syntax"),
    "null byte": ("a = '\0'", "syntax"),
    "lone surrogate": ("a = '\ud800'", "syntax"),
    "ten thousand parentheses": ("(" * 9000 + ")" * 9000, "syntax"),
    "too long": ("#" * 30_000, "syntax"),
    "nothing": ("", "no generate"),
    "no function": ("generate = 3", "no generate"),
    "an error at once": ("1 / 0", "error"),
    "an error in every draw": ("def generate(rng): return rng.choice([])", "error"),
    "recursion": ("def generate(rng): return generate(rng)", "error"),
    "numpy": ("import numpy as np", "import"),
    "sys": ("import sys\nsys.settrace(print)", "import"),
    "a part of a package": ("import collections.abc.x", "import"),
    "ctypes in a function": ("def generate(rng):\n    import ctypes", "import"),
    "relative import": ("from . import x", "import"),
    "open": ("open('/etc/passwd')", "error"),
    "eval": ("eval('1')", "error"),
    "exit": ("raise SystemExit(0)", "error"),
    "interrupt": ("def generate(rng): raise KeyboardInterrupt", "error"),
    "an error that cannot be told": (
        "class E(Exception):\n    def __str__(self): raise self\ndef generate(rng): raise E",
        "error",
    ),
    "no pair": ("def generate(rng): return 7", "bounds"),
    "one grid": ("def generate(rng): return [[[1]]]", "bounds"),
    "colour 10": ("def generate(rng): return [[10]], [[1]]", "bounds"),
    "colour of ten thousand digits": ("def generate(rng): return [[10 ** 10000]], [[1]]", "bounds"),
    "a truth value": ("def generate(rng): return [[True]], [[1]]", "bounds"),
    "31 rows": ("def generate(rng): return [[1]] * 31, [[1]]", "bounds"),
    "no rows": ("def generate(rng): return [], [[1]]", "bounds"),
    "rows of two lengths": ("def generate(rng): return [[1], [1, 2]], [[1]]", "bounds"),
    "hostile repr": (
        "class G:\n    def __repr__(self):\n        while True: pass\n    __iter__ = __len__ = __getitem__ = __str__ = __repr__\n"
        "def generate(rng): return G(), G()",
        "bounds",
    ),
    "hostile number": (
        "class N(int):\n    def __index__(self):\n        while True: pass\n    __repr__ = __lt__ = __index__\n"
        "def generate(rng): return [[N()]], [[N()]]",
        "bounds",
    ),
    "too much memory at once": ("a = bytearray(10 ** 10)", "memory"),
    "more and more memory": ("a = []\nwhile True: a.append(bytearray(10 ** 7))", "memory"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_code_is_refused_with_its_reason(name: str, filtered: Sandbox) -> None:
    code, reason = FAULTS[name]
    assert refusal(filtered, code) == reason


def test_what_honest_code_may_do_does_not_harm(sandbox: Sandbox) -> None:
    code = """
        from __future__ import annotations
        import collections.abc, dataclasses, itertools, math, random
        from dataclasses import dataclass
        from typing import NamedTuple
        @dataclass
        class Block:
            top: int
        class Place(NamedTuple):
            row: int
        try:
            import numpy
        except ImportError:
            numpy = None
        print("x" * 10 ** 6)
        def generate(rng):
            assert rng.random() != random.random() or True
            if rng.random() < 0.3:
                raise ValueError("bad luck")
            return {"input": ((rng.randrange(10), Block(3).top),), "output": [[Place(4).row]]}
    """
    assert len(sandbox.draw(textwrap.dedent(code), range(40), 10)) == 10


# what would do harm. The filter ends it; were there no filter, the other layers would stop it, too.
ATTACKS = {
    "open a file": REACH + "os['open']('/etc/passwd', 0)",
    "write a file": REACH + "os['open']('/tmp/x', 0o101)",
    "read /proc": REACH + "os['open']('/proc/self/mem', 2)",
    "list a folder": REACH + "os['listdir']('/home')",
    "see a file": REACH + "os['stat'](VICTIM)",
    "delete a file": REACH + "os['unlink'](VICTIM)",
    "rename a file": REACH + "os['rename'](VICTIM, '/tmp/x')",
    "cut a file": REACH + "os['truncate'](VICTIM, 0)",
    "make a folder": REACH + "os['mkdir']('/x')",
    "fork": REACH + "os['fork']()",
    "fork bomb": REACH + "while True: os['fork']()",
    "a command": REACH + "if os['system']('true') != 0: raise OSError",
    "another program": REACH + "os['execv']('/bin/true', ['true'])",
    "a socket": LIBC + "if libc.socket(2, 1, 0) < 0: raise OSError",
    "a Unix socket": LIBC + "if libc.socket(1, 1, 0) < 0: raise OSError",
    "a pipe": REACH + "os['pipe']()",
    "a thread": REACH + "modules['_thread'].start_new_thread(print, ())",
    "more files": REACH + "r = modules['resource']\nr.setrlimit(r.RLIMIT_NOFILE, (99, 99))",
    "become root": LIBC + "if libc.setuid(0) != 0: raise OSError",
    "mount": LIBC + "if libc.mount(b'/', b'/', b'tmpfs', 0, 0) != 0: raise OSError",
    "another root": LIBC + "if libc.chroot(b'/') != 0: raise OSError",
    "new namespaces": LIBC + "if libc.unshare(0x10000000) != 0: raise OSError",
}


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[str]:
    """The path of a file, as code writes it. Nothing may happen to the file."""
    file = tmp_path / "file"
    file.write_text("there")
    yield repr(str(file))
    assert file.read_text() == "there"


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_stopped(name: str, sandbox: Sandbox, victim: str) -> None:
    assert refusal(sandbox, ATTACKS[name].replace("VICTIM", victim)) == "system call"


@pytest.fixture(scope="module")
def unfiltered() -> Iterator[Sandbox]:
    with opened("full") as sandbox:
        yield Sandbox(sandbox.layers - {"seccomp"}, sandbox.empty_folder)


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_fail_without_the_filter(name: str, unfiltered: Sandbox, victim: str) -> None:
    assert refusal(unfiltered, ATTACKS[name].replace("VICTIM", victim)) in ("error", "crash")


# these need the filter: without it a process of an ordinary user can reach others of that user, and wait as it likes
FILTERED = {
    "trace the parent": (LIBC + f"libc.ptrace(16, {os.getpid()}, 0, 0)", "system call"),
    "memory of the parent": (LIBC + f"libc.process_vm_readv({os.getpid()}, 0, 0, 0, 0, 0)", "system call"),
    "kill the parent": (REACH + f"os['kill']({os.getpid()}, 9)", "system call"),
    "interrupt the parent": (REACH + f"os['kill']({os.getpid()}, 2)", "system call"),
    "kill everything": (REACH + "os['kill'](-1, 9)", "system call"),
    "shared memory": (LIBC + "libc.shmget(0, 4096, 0o1666)", "system call"),
    "handle a signal": (REACH + "modules['signal'].signal(24, print)", "system call"),
    "an alarm": (REACH + "modules['signal'].alarm(1)", "system call"),
    "abort": (REACH + "os['abort']()", "system call"),
    "sleep": (REACH + "modules['time'].sleep(600)", "system call"),
    "wait for itself": (
        REACH + "lock = modules['_thread'].allocate_lock()\nlock.acquire()\nlock.acquire()",
        "system call",
    ),
    "executable memory": (LIBC + "libc.mmap(0, 4096, 7, 0x22, -1, 0)", "system call"),
    "memory made executable": (LIBC + "libc.mprotect(libc.mmap(0, 4096, 3, 0x22, -1, 0), 4096, 5)", "system call"),
    "a system call of its own": (LIBC + "libc.syscall(435, 0, 0)", "system call"),
    "a call of the 32-bit interface": (LIBC + "libc.syscall(0x40000001, 1, b'x', 1)", "system call"),
    "write elsewhere": (REACH + "os['write'](2, b'x')", "system call"),
    "read": (REACH + "os['read'](0, 1)", "system call"),
    "close the answer": (REACH + "os['close'](1)", "system call"),
}


@pytest.mark.parametrize("name", FILTERED)
def test_the_filter_ends_what_asks_for_more_than_computing(name: str, filtered: Sandbox) -> None:
    code, reason = FILTERED[name]
    assert refusal(filtered, code) == reason


# the code has the process and the pipe to itself, so it can write anything and end at any moment
FORGED = {
    "garbage": (REACH + "os['write'](1, b'garbage\\n')", "answer"),
    "no text": (REACH + "os['write'](1, bytes(range(256)))", "answer"),
    "a hundred million bytes": (REACH + "while True: os['write'](1, b'x' * 10 ** 6)", "answer"),
    "another first line": (REACH + 'os[\'write\'](1, b\'{"missing": ["limits", "x"]}\\n\')', "answer"),
    "no answer": (REACH + "os['_exit'](0)", "answer"),
    "another exit code": (REACH + "os['_exit'](3)", "crash"),
    "an answer of its own": (REACH + "os['write'](1, b'{\"refused\": [\"kept\", \"\"]}\\n')\nos['_exit'](0)", "answer"),
    "a wrong address": (LIBC + "modules['ctypes'].string_at(1)", "crash"),
    "other types": (REACH + "modules['json'].dumps = lambda _: '[' * 1000", "answer"),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_answers_are_refused(name: str, filtered: Sandbox) -> None:
    code, reason = FORGED[name]
    assert refusal(filtered, code) == reason


def test_endless_loops_end(filtered: Sandbox) -> None:
    short = Sandbox(filtered.layers, filtered.empty_folder, cpu_seconds=1)
    assert refusal(short, "while True: pass") == "time"
    catching = "def generate(rng):\n    while True:\n        try:\n            1 / 0\n        except:\n            pass"
    assert refusal(short, catching) == "time"


def test_a_process_that_waits_forever_is_ended(filtered: Sandbox) -> None:
    ticks = iter([0.0, 1.0, 29.9])  # the process says that it is locked within 29 seconds, and nothing in the next 0.1
    waiting = Sandbox(filtered.layers, filtered.empty_folder, clock=lambda: next(ticks, 31.0))
    assert refusal(waiting, "while True: pass") == "time"


def test_no_attack_leaves_a_process_behind(filtered: Sandbox) -> None:
    def children() -> set[str]:
        return {child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()}

    before = children()
    for code in (GOOD, *(code for code, _ in FORGED.values())):
        refusal(filtered, code)
    assert children() <= before


def test_the_locked_process_has_no_environment_and_no_files(filtered: Sandbox) -> None:
    # Python itself sets LC_CTYPE where there is no locale
    code = REACH + "if os['environ'].keys() - {'LC_CTYPE'}: raise OSError"
    assert refusal(filtered, code) == "gave 2 pairs"
    everything = REACH + "for n in list(range(1, 1)) + list(range(2, 40)):\n    os['fstat'](n)"
    assert refusal(filtered, everything) == "system call"


def test_a_missing_layer_is_named_with_the_form_that_does_without() -> None:
    sandbox = Sandbox(LAYERS["full"], process.Path("/"))
    line = json.dumps({"missing": ["namespaces", "unshare: Operation not permitted"]}).encode()
    with pytest.raises(InputError, match=r"'namespaces': unshare: .* not permitted; .* without: --sandbox no-namespaces"):
        sandbox._check_locked(line, "")
    with pytest.raises(InputError, match=r"layer 'limits': x$"):
        sandbox._check_locked(b'{"missing": ["limits", "x"]}', "")
    for other in (b"", b"{}", b"[1]", b"3", b"\xff", b'{"missing": 3}', b'{"locked": false}'):
        with pytest.raises(InputError, match="did not start: it was ended by SIGKILL"):
            sandbox._check_locked(other, "it was ended by SIGKILL")


def test_a_system_that_has_no_process_left_is_named(filtered: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*arguments: object, **named: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(process.subprocess, "Popen", none_left)
    with pytest.raises(InputError, match="no process for the sandbox: Resource temporarily unavailable"):
        filtered.draw(GOOD, range(4), 2)


def test_systems_without_a_layer_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockdown.platform, "machine", lambda: "riscv64")
    with pytest.raises(LayerMissing) as caught:
        lockdown._filter_system_calls(None)  # type: ignore[arg-type]
    assert caught.value.args == ("seccomp", "no filter for the processor riscv64")
    monkeypatch.setattr(process.sys, "platform", "darwin")
    with pytest.raises(InputError, match="Linux alone"), open_sandbox("full"):
        pass


OPEN = """
import sys
from dataclasses import replace
from solver.errors import InputError
from solver.pretrain.lm_generators.sandbox.process import open_sandbox
try:
    with open_sandbox(sys.argv[1]) as sandbox:
        print("opened", flush=True)
        replace(sandbox, cpu_seconds=900).draw(sys.argv[2], range(1), 1)
except InputError as error:
    print(error)
"""


def test_a_kernel_that_allows_no_namespaces_is_found_out() -> None:
    """In a user namespace that allows no others, as in many containers. Its root cannot become another user."""
    inside = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$0" -c "$1" "$2" "$3"'
    code = "def generate(rng):\n    return [[1]], [[2]]"

    def opened(form: Form) -> str:
        command = ["unshare", "--user", "--map-root-user", "sh", "-c", inside, sys.executable, OPEN, form, code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode:
            pytest.skip(f"no user namespace to try it in: {done.stderr.strip()[-80:]}")
        return done.stdout.strip()

    assert opened("no-namespaces") == "opened"
    told = opened("full")
    assert told.startswith("this system does not offer the sandbox its layer 'namespaces': unshare: ")
    assert told.endswith("; a weaker form does without: --sandbox no-namespaces")


@pytest.mark.usefixtures("filtered")
def test_processes_end_with_the_command(tmp_path: Path) -> None:
    looping = [sys.executable, "-c", OPEN, "no-namespaces", "while True: pass"]
    here = {**os.environ, "TMPDIR": str(tmp_path)}  # a kill leaves the empty folder there
    with subprocess.Popen(looping, stdout=subprocess.PIPE, text=True, env=here) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "opened\n"
        while not (children := Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()):
            time.sleep(0.01)
        child = Path(f"/proc/{children[0]}/stat")
        while "NoNewPrivs:\t1" not in child.with_name("status").read_text():
            time.sleep(0.01)
        command.kill()
    while child.exists() and child.read_text().split()[2] != "Z":  # the test's time limit ends this if the process lives on
        time.sleep(0.01)


@pytest.mark.usefixtures("filtered")
def test_a_sandbox_that_holds_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_PROBE", GOOD)
    with pytest.raises(InputError, match="could open a file"), open_sandbox("no-namespaces"):
        pass
    monkeypatch.setattr(process, "_PROBE", "1 / 0")
    with pytest.raises(InputError, match="failed otherwise: error: ZeroDivisionError"), open_sandbox("no-namespaces"):
        pass
    monkeypatch.setattr(process, "_HARMLESS", "import os")
    with pytest.raises(InputError, match="harmless code in it failed: import: "), open_sandbox("no-namespaces"):
        pass


# --- the filter, by a machine for its instructions


def verdict(program: list[seccomp.Instruction], audit: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What a filter says about a system call: SECCOMP_RET_*."""
    data = struct.pack("=IIQ6Q", number, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    at, loaded = 0, 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == seccomp.LOAD:
            (loaded,) = struct.unpack_from("=I", data, value)
        elif code == seccomp.RETURN:
            return value
        elif code == seccomp.JUMP_IF_EQUAL:
            at += if_true if loaded == value else if_false
        else:
            assert code == seccomp.JUMP_IF_ANY_BIT
            at += if_true if loaded & value else if_false


@pytest.mark.parametrize("name", seccomp.MACHINES)
def test_the_filter_allows_its_list_and_nothing_else(name: str) -> None:
    machine = seccomp.MACHINES[name]
    program = seccomp.filter_program(machine)
    assert len(seccomp.packed(program)) == 8 * len(program)
    conditional = {"write": (1, 0, 10), "mmap": (0, 4096, 3, 0x22), "mprotect": (0, 4096, 1)}
    fine = {number: conditional.get(call, ()) for call, number in machine.calls.items()}
    for number in (*range(600), 2**30 + 1, 2**31 + 1, 2**32 - 1):
        expected = seccomp.ALLOW if number in fine else seccomp.KILL
        assert verdict(program, machine.audit, number, fine.get(number, ())) == expected
        assert verdict(program, 0x40000003, number, fine.get(number, ())) == seccomp.KILL  # the 32-bit interface
    calls = machine.calls
    for call, bad in [
        ("write", (0,)),
        ("write", (2,)),
        ("write", (2**32 + 1,)),
        ("mmap", (0, 4096, 7, 0x22)),
        ("mmap", (0, 4096, 3, 0x02)),
        ("mprotect", (0, 4096, 4)),
    ]:
        assert verdict(program, machine.audit, calls[call], bad) == seccomp.KILL
    assert platform.machine() not in seccomp.MACHINES or seccomp.MACHINES[platform.machine()].audit


# --- reading answers

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
ROWS = st.lists(st.lists(st.integers(-1, 11), max_size=4), max_size=4) | ANYTHING
NEAR = st.fixed_dictionaries(
    {"pairs": st.lists(st.tuples(st.integers(-1, 4) | ANYTHING, ROWS, ROWS), min_size=1, max_size=3)},
    optional={"refused": ANYTHING},
) | st.fixed_dictionaries({"refused": st.lists(st.sampled_from(REASONS) | st.text(), min_size=1, max_size=3)})
BYTES = st.binary() | ANYTHING.map(lambda value: json.dumps(value).encode()) | NEAR.map(lambda value: json.dumps(value).encode())


@given(BYTES)
def test_any_bytes_are_an_answer_or_one_refusal(data: bytes) -> None:
    found: object = None
    try:
        found = read_answer(data, range(4), 2)
    except Refused as refused:
        found = refused
    if isinstance(found, Refused):
        assert found.reason in REASONS
        assert found.detail.isprintable()
        assert len(found.detail) <= 200
        return
    assert isinstance(found, dict)
    assert len(found) == 2
    assert all(isinstance(pair, Pair) and pair.output is not None for pair in found.values())


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"pairs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"pairs": [[0, [[' + b"[" * 900 + b"]" * 900 + b"]], [[1]]]]}",
        b'{"pairs": [[0, [[' + b"9" * 5000 + b"]], [[1]]]]}",
        b'{"pairs": [[0, [[1e999]], [[NaN]]]]}',
        b'{"pairs": [[0, [["\\ud800"]], [[1]]]]}',
        b'{"pairs": [[0, [[1]], [[1]]], [0, [[1]], [[1]]]]}',
        '{"pairs": []}'.encode("utf-16"),
        b'{"refused": ["kept", ""]}',
        b'{"refused": ["duplicate", ""]}',
    ],
    ids=range(10),
)
def test_extreme_answers_are_refused(data: bytes) -> None:
    with pytest.raises(Refused) as caught:
        read_answer(data, range(4), 2 if data.count(b"[0,") == 2 else 1)
    assert caught.value.reason in ("answer", "bounds")


def test_an_answer_is_read() -> None:
    data = json.dumps({"pairs": [[3, [[1, 2]], [[3]]], [0, [[4]], [[5]]]]}).encode()
    found = read_answer(data, range(4), 2)
    assert {seed: pair.input.tolist() for seed, pair in found.items()} == {3: [[1, 2]], 0: [[4]]}
    assert found[0].output is not None
    assert found[0].output.dtype == np.uint8
