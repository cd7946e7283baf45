"""Both artifact stores do the same: a directory, and an object store behind a real HTTP server."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from jobs.artifacts import ArtifactStore, DirectoryStore, ObjectStore, StoredFile, Workspace, describe, open_store
from jobs.settings import Settings

KEY = Workspace("job-1", "att-1").output


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A server that speaks S3, with the bucket "results"."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    import boto3  # noqa: PLC0415 - comes with moto, and only this fixture needs it

    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket="results")
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.integration)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    backend = S3Store(
        "results",
        prefix=tmp_path.name,
        endpoint=request.getfixturevalue("s3_endpoint"),
        region="us-east-1",
        access_key_id="test",
        secret_access_key="test",
        client_options={"allow_http": True},
    )
    return ObjectStore(backend, tmp_path / "cache")


def elsewhere(store: ArtifactStore, tmp_path: Path) -> ArtifactStore:
    """The same store as another machine sees it."""
    if isinstance(store, ObjectStore):
        return ObjectStore(store._backend, tmp_path / "other machine")
    assert isinstance(store, DirectoryStore)
    return DirectoryStore(store.root)


def write_output(store: ArtifactStore) -> None:
    folder = store.workspace(KEY)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_bytes(b"{}")
    (folder / "big.bin").write_bytes(bytes(range(256)) * 10_000)
    (folder / "empty.txt").touch()


def test_what_an_attempt_wrote_is_read_on_another_machine(store: ArtifactStore, tmp_path: Path) -> None:
    write_output(store)
    described = {file.path: file for file in describe(store.workspace(KEY))}
    store.publish(KEY)
    other = elsewhere(store, tmp_path)
    big = described["big.bin"]
    assert b"".join(other.read(f"{KEY}/big.bin", 0, big.bytes)) == bytes(range(256)) * 10_000
    assert b"".join(other.read(f"{KEY}/big.bin", 255, 258)) == b"\xff\x00\x01"
    assert b"".join(other.read(f"{KEY}/empty.txt", 0, 0)) == b""
    assert sorted(described) == ["big.bin", "empty.txt", "model/config.json"]
    folder = other.local(f"{KEY}/model")
    assert (folder / "config.json").read_bytes() == b"{}"
    assert other.local(f"{KEY}/model") == folder


def test_an_upload_is_moved_in_and_deleted(store: ArtifactStore, tmp_path: Path) -> None:
    source = store.scratch() / "upload"
    source.write_bytes(b"data")
    store.put(source, "files/file-1")
    assert not source.exists()
    other = elsewhere(store, tmp_path)
    assert b"".join(other.read("files/file-1", 0, 4)) == b"data"
    assert other.local("files/file-1").read_bytes() == b"data"
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
        return describe(other.local(KEY))

    with ThreadPoolExecutor(6) as pool:
        seen = list(pool.map(fetch, range(6)))
    assert [file.path for file in seen[0]] == ["big.bin", "empty.txt", "model/config.json"]
    assert all(files == seen[0] for files in seen)
    if isinstance(store, ObjectStore):
        assert [path.name for path in (tmp_path / "other machine" / "fetched" / KEY).parent.iterdir()] == ["output"]


def test_deleting_a_folder_leaves_its_neighbours(store: ArtifactStore, tmp_path: Path) -> None:
    for name in ("jobs/a", "jobs/ab"):
        (store.workspace(name) / "file").write_bytes(b"x")
        store.publish(name)
    store.delete("jobs/a")
    other = elsewhere(store, tmp_path)
    assert b"".join(other.read("jobs/ab/file", 0, 1)) == b"x"
    with pytest.raises(FileNotFoundError):
        list(other.read("jobs/a/file", 0, 1))


@pytest.mark.parametrize("key", ["../outside", "a/../../outside", "/etc/passwd", "."])
def test_no_key_leads_out_of_the_directory(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="leads out"):
        DirectoryStore(tmp_path / "store").local(key)


def test_the_setting_chooses_the_store(tmp_path: Path) -> None:
    assert isinstance(open_store(Settings(home=tmp_path)), DirectoryStore)
    assert isinstance(open_store(Settings(home=tmp_path, artifact_root="s3://results/prefix")), ObjectStore)
