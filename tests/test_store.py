"""The cache: entries appear whole, damage is noticed, one process trains a model."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from bench.errors import InputError
from bench.store import CacheWarning, Store, cache_folder, write_atomically, write_table

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}
CELL = {"key": "k", "status": "ok", "values": [["hr@5", "all", 0.1]]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", beat=0.05, stale=0.4)


def _save_cell(store: Store, folder: Path) -> None:
    (folder / "u.parquet").write_bytes(b"users")
    (folder / "i.parquet").write_bytes(b"items")
    store.save_cell("k", CELL, folder / "u.parquet", folder / "i.parquet")


def test_a_model_comes_back_bit_for_bit(store: Store) -> None:
    assert store.load_model("k") is None
    store.save_model("k", STATE, {"seconds": 1.5, "fit": {"best_score": float("nan")}})
    state, meta = store.load_model("k")
    assert set(state) == {"a", "b"}
    assert all(torch.equal(state[k], v) and state[k].dtype == v.dtype for k, v in STATE.items())
    assert meta == {"seconds": 1.5, "fit": {"best_score": None}}


def test_a_model_without_tensors_is_kept_too(store: Store) -> None:
    store.save_model("k", {}, {"seconds": 0.0})
    assert store.load_model("k") == ({}, {"seconds": 0.0})


def test_an_entry_replaces_the_former_and_leaves_nothing_behind(store: Store) -> None:
    store.save_model("k", STATE, {"n": 1})
    store.save_model("k", {"a": torch.zeros(1)}, {"n": 2})
    state, meta = store.load_model("k")
    assert (list(state), meta) == (["a"], {"n": 2})
    assert [p.name for p in (store.folder / "models").iterdir()] == ["k"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "no weights", "no json", "empty json"])
def test_a_damaged_model_is_noticed(store: Store, damage: str) -> None:
    store.save_model("k", STATE, {"n": 1})
    weights, meta = (store.path("models", "k") / n for n in ("weights.safetensors", "meta.json"))
    content = weights.read_bytes()
    if damage == "truncate":
        weights.write_bytes(content[:-3])
    elif damage == "flip":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "no weights":
        weights.unlink()
    else:
        meta.write_text("{\"sha" if damage == "no json" else "{}")
    with pytest.warns(CacheWarning, match="damaged"):
        assert store.load_model("k") is None


@pytest.mark.parametrize("name", ["cell.json", "users.parquet", "items.parquet"])
@pytest.mark.parametrize("damage", ["truncate", "alter", "remove"])
def test_a_damaged_cell_is_noticed(store: Store, tmp_path: Path, name: str, damage: str) -> None:
    _save_cell(store, tmp_path)
    assert store.load_cell("k").cell == CELL
    path = store.path("cells", "k") / name
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content.replace(b"0.1", b"0.9") if name == "cell.json" else b"other")
    if (name, damage) == ("cell.json", "remove"):
        assert store.load_cell("k") is None
        return
    with pytest.warns(CacheWarning, match="damaged"):
        assert store.load_cell("k") is None


def test_a_damaged_entry_tells_who_asked(tmp_path: Path) -> None:
    heard: list[str] = []
    store = Store(tmp_path, warn=heard.append)
    store.save_model("k", STATE, {})
    (store.path("models", "k") / "meta.json").write_text("[]")
    assert store.load_model("k") is None
    assert len(heard) == 1
    assert "computed again" in heard[0]


def test_writing_is_all_or_nothing(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "new" / "a.txt"
    write_atomically(path, "first")

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "second")
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_tables_have_the_same_bytes_each_time(tmp_path: Path) -> None:
    import numpy as np
    import pandas as pd

    columns = {"user": np.array(["u1", "ü2"], object), "ndcg@5": np.array([0.5, np.nan])}
    for name in ("a", "b"):
        write_table(tmp_path / name, columns)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    back = pd.read_parquet(tmp_path / "a")
    assert list(back["user"]) == ["u1", "ü2"]
    assert back["ndcg@5"].isna().tolist() == [False, True]


def test_the_folder_comes_from_the_environment(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".bench-cache"
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="BENCH_CACHE"):
        Store(tmp_path / "file")


# -- locks -------------------------------------------------------------------------------------

def test_two_threads_are_never_inside_at_once(store: Store) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(5):
            with store.lock("k"):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.002)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert most == [1]
    assert list((store.folder / "models").iterdir()) == []


def test_a_lock_lives_as_long_as_its_heart_beats(store: Store) -> None:
    got: list[float] = []
    start = time.monotonic()
    with store.lock("k"):
        thread = threading.Thread(target=lambda: _take(store, got))
        thread.start()
        time.sleep(3 * store.stale)  # far beyond what a silent lock is given
        assert got == []
    thread.join()
    assert got[0] - start >= 3 * store.stale


def _take(store: Store, got: list[float]) -> None:
    with store.lock("k"):
        got.append(time.monotonic())


def test_a_silent_lock_of_another_machine_is_taken_over(store: Store) -> None:
    path = store.folder / "models" / ".k.lock"
    path.write_text("elsewhere 1 abc")
    start = time.monotonic()
    with store.lock("k"):
        assert time.monotonic() - start >= 0.5 * store.stale
        assert "elsewhere" not in path.read_text()


def test_the_lock_of_a_dead_process_is_taken_over_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path)  # stale after a minute: the process's absence is what counts
    code = ("import os, sys; from pathlib import Path; from bench.store import Store\n"
            "with Store(Path(sys.argv[1])).lock('k'): os._exit(9)")
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root).returncode == 9
    assert (tmp_path / "models" / ".k.lock").is_file()
    start = time.monotonic()
    with store.lock("k"):
        assert time.monotonic() - start < 5


def test_sweeping_removes_old_leftovers_alone(store: Store) -> None:
    store.save_model("k", STATE, {})
    old, young = (store.folder / "models" / n for n in (".old.1", ".young.1"))
    for folder in (old, young):
        folder.mkdir()
        (folder / "weights.safetensors").write_bytes(b"x")
    os.utime(old, (1, 1))
    store.sweep()
    assert sorted(p.name for p in (store.folder / "models").iterdir()) == [".young.1", "k"]
