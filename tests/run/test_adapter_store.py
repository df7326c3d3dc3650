"""Which adapters are deleted, on a real folder and a disk of a size the tests choose."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from solver.run.adapter_store import AdapterStore, LocalDisk
from solver.types import AdapterRef

SIZE = 1000  # bytes of an adapter


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def adapter(folder: Path, name: str) -> AdapterRef:
    path = folder / name
    path.mkdir()
    (path / "adapter_model.safetensors").write_bytes(bytes(SIZE))
    return AdapterRef(name, path, "lora")


def disk(folder: Path, room: int) -> AdapterStore:
    """A store on a disk that holds `room` adapters."""
    return AdapterStore(False, LocalDisk(lambda _: SIZE * (room - len(list(folder.iterdir())))))


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_only_the_newest_of_a_task_in_doubt_stays_and_none_of_a_finished_one(scratch: Path) -> None:
    store = AdapterStore(False)
    first, second, other = (adapter(scratch, name) for name in ("a1", "a2", "b1"))
    store.sort("a", [first, second], False, None)
    store.sort("b", [other], True, None)
    assert left(scratch) == {"a2"}


def test_an_adapter_is_deleted_once(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[str] = []

    def counted(path: Path, ignore_errors: bool) -> None:
        deleted.append(path.name)
        if path.name != "a2":  # which the disk refuses to delete
            shutil.rmtree(path, ignore_errors)

    monkeypatch.setattr("solver.run.adapter_store.shutil", SimpleNamespace(rmtree=counted))
    store, adapters = AdapterStore(False), [adapter(scratch, name) for name in ("a1", "a2", "a3")]
    for number in (2, 3, 3):
        store.sort("a", adapters[:number], False, None)
    assert deleted == ["a1", "a2", "a2"]
    assert left(scratch) == {"a2", "a3"}


def test_a_shared_adapter_and_one_that_was_handed_on_stay(scratch: Path) -> None:
    store = disk(scratch, 0)
    shared, own = adapter(scratch, "shared"), adapter(scratch, "own")
    store.sort("a", [shared], True, shared)
    store.sort("b", [own, own], False, shared)
    store.sort("c", [shared], False, shared)
    assert left(scratch) == {"shared", "own"}
    assert store.make_room(1, lambda _: False) == ["b"]
    assert left(scratch) == {"shared"}


def test_the_oldest_go_when_the_disk_is_short_of_room_for_the_next(scratch: Path) -> None:
    store = disk(scratch, 8)
    for task in "abcdef":
        store.sort(task, [adapter(scratch, task)], False, None)
    assert store.make_room(1, lambda _: False) == []  # two fit
    assert store.make_room(2, lambda task: task == "a") == ["b", "c"]  # four are to fit, and a is being worked on
    assert left(scratch) == {"a", "d", "e", "f"}
    store.sort("a", [adapter(scratch, "a2")], False, None)  # which makes it the youngest
    assert store.make_room(2, lambda _: False) == ["d"]


def test_nothing_is_deleted_that_a_user_wants_to_keep_or_of_a_disk_that_cannot_be_asked(scratch: Path) -> None:
    def gone(_: Path) -> int:
        raise OSError(5, "Input/output error")

    for number, store in enumerate((AdapterStore(True, LocalDisk(lambda _: 0)), AdapterStore(False, LocalDisk(gone)))):
        kept = adapter(scratch, f"a{number}")
        store.sort("a", [kept], False, None)
        assert store.make_room(4, lambda _: False) == []
        assert kept.path.is_dir()
    keeping = AdapterStore(True)
    keeping.sort("a", [kept], True, None)
    assert kept.path.is_dir()
