"""Both artifact stores behave the same: a directory, and an object store behind a real HTTP server."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.artifacts import ArtifactStore, DirectoryStore, ObjectStore, StoredFile, Workspace, describe_files, open_store
from jobs.settings import Settings

KEY = Workspace("job-1", "att-1").output


def elsewhere(store: ArtifactStore, tmp_path: Path) -> ArtifactStore:
    """The same store as another machine sees it."""
    if isinstance(store, ObjectStore):
        return ObjectStore(store._backend, tmp_path / "other machine")
    assert isinstance(store, DirectoryStore)
    return DirectoryStore(store.root)


def write_output(store: ArtifactStore) -> None:
    folder = store.open_workspace(KEY)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_bytes(b"{}")
    (folder / "big.bin").write_bytes(bytes(range(256)) * 10_000)
    (folder / "empty.txt").touch()


def test_output_of_an_attempt_is_read_on_another_machine(store: ArtifactStore, tmp_path: Path) -> None:
    write_output(store)
    described = {file.path: file for file in describe_files(store.open_workspace(KEY))}
    store.publish(KEY)
    other = elsewhere(store, tmp_path)
    big = described["big.bin"]
    assert b"".join(other.read(f"{KEY}/big.bin", 0, big.bytes)) == bytes(range(256)) * 10_000
    assert b"".join(other.read(f"{KEY}/big.bin", 255, 258)) == b"\xff\x00\x01"
    assert b"".join(other.read(f"{KEY}/empty.txt", 0, 0)) == b""
    assert sorted(described) == ["big.bin", "empty.txt", "model/config.json"]
    folder = other.fetch_path(f"{KEY}/model")
    assert (folder / "config.json").read_bytes() == b"{}"
    assert other.fetch_path(f"{KEY}/model") == folder


def test_an_upload_is_moved_in_and_deleted(store: ArtifactStore, tmp_path: Path) -> None:
    source = store.open_scratch_folder() / "upload"
    source.write_bytes(b"data")
    store.put(source, "files/file-1")
    assert not source.exists()
    other = elsewhere(store, tmp_path)
    assert b"".join(other.read("files/file-1", 0, 4)) == b"data"
    assert other.fetch_path("files/file-1").read_bytes() == b"data"
    other.delete("files/file-1")
    other.delete("files/file-1")
    with pytest.raises(FileNotFoundError):
        list(elsewhere(store, tmp_path).read("files/file-1", 0, 4))


def test_many_runners_fetch_the_same_folder_at_once(store: ArtifactStore, tmp_path: Path) -> None:
    write_output(store)
    store.publish(KEY)
    other, together = elsewhere(store, tmp_path), threading.Barrier(6)

    def fetch(_number: int) -> list[StoredFile]:
        together.wait()
        return describe_files(other.fetch_path(KEY))

    with ThreadPoolExecutor(6) as pool:
        seen = list(pool.map(fetch, range(6)))
    assert [file.path for file in seen[0]] == ["big.bin", "empty.txt", "model/config.json"]
    assert all(files == seen[0] for files in seen)
    if isinstance(store, ObjectStore):
        assert [path.name for path in (tmp_path / "other machine" / "fetched" / KEY).parent.iterdir()] == ["output"]


def test_deleting_a_folder_leaves_its_neighbours(store: ArtifactStore, tmp_path: Path) -> None:
    for name in ("jobs/a", "jobs/ab"):
        (store.open_workspace(name) / "file").write_bytes(b"x")
        store.publish(name)
    store.delete("jobs/a")
    other = elsewhere(store, tmp_path)
    assert b"".join(other.read("jobs/ab/file", 0, 1)) == b"x"
    with pytest.raises(FileNotFoundError):
        list(other.read("jobs/a/file", 0, 1))


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/passwd", "."])
def test_no_key_escapes_the_directory(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="points outside"):
        DirectoryStore(tmp_path / "store").fetch_path(key)


def test_the_setting_chooses_the_store(tmp_path: Path) -> None:
    assert isinstance(open_store(Settings(home=tmp_path)), DirectoryStore)
    assert isinstance(open_store(Settings(home=tmp_path, artifact_root="s3://results/prefix")), ObjectStore)


def publish_attempts(store: ArtifactStore, count: int) -> list[str]:
    """Results of a thousand bytes each."""
    keys = [Workspace("job-1", f"att-{number}").output for number in range(count)]
    for key in keys:
        (store.open_workspace(key) / "data").write_bytes(bytes(1000))
        store.publish(key)
    return keys


@pytest.mark.integration
def test_the_cache_evicts_the_least_recently_used_folders(s3_store: ObjectStore, tmp_path: Path) -> None:
    keys = publish_attempts(s3_store, 4)
    for position, key in enumerate((keys[1], keys[2], keys[3], keys[0])):
        reader = ObjectStore(s3_store._backend, tmp_path / "machine", limit=2500)
        folder = reader.fetch_path(key)
        os.utime(folder.parent, (position, position))
        del reader  # so nobody uses it
    machine = ObjectStore(s3_store._backend, tmp_path / "machine", limit=2500)
    machine.tidy()
    left = {key for key in keys if (tmp_path / "machine" / "fetched" / key).exists()}
    assert left == {keys[0], keys[3]}
    assert (machine.fetch_path(keys[1]) / "data").read_bytes() == bytes(1000)


@pytest.mark.integration
def test_the_cache_keeps_folders_that_a_process_uses(s3_store: ObjectStore, tmp_path: Path) -> None:
    first, second = publish_attempts(s3_store, 2)
    user = ObjectStore(s3_store._backend, tmp_path / "machine", limit=1)
    used = user.fetch_path(first)
    ObjectStore(s3_store._backend, tmp_path / "machine").fetch_path(second)
    ObjectStore(s3_store._backend, tmp_path / "machine", limit=1).tidy()
    assert (used / "data").exists()
    assert not (tmp_path / "machine" / "fetched" / second).exists()
    del user
    ObjectStore(s3_store._backend, tmp_path / "machine", limit=1).tidy()
    assert not used.exists()


def test_abandoned_uploads_are_deleted_and_running_ones_are_not(store: ArtifactStore, tmp_path: Path) -> None:
    dead, living = store.open_scratch_folder() / "upload-dead", store.open_scratch_folder() / "upload-living"
    arriving = [tmp_path / "cache" / "fetched" / "files" / f"file-1.arriving-{name}" for name in ("dead", "living")]
    for path in (dead, living, *arriving):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    for path in (dead, arriving[0]):
        os.utime(path, (1, 1))
    store.tidy()
    assert (dead.exists(), living.exists()) == (False, True)
    if isinstance(store, ObjectStore):
        assert [path.exists() for path in arriving] == [False, True]
