"""Downloads: complete, by range, conditional, from a directory and from an object store."""

import hashlib
from collections.abc import Iterator

import pytest

from jobs.artifacts import Workspace
from tests.api.conftest import Api, problem_of, serving, small

CONTENT = bytes(range(256)) * 10_000  # more than two chunks
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module", params=["directory", "object store"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, str]]:
    """A job with artifacts on each kind of store, and the address of its artifacts."""
    folder = tmp_path_factory.mktemp("stored")
    (folder / "objects").mkdir()
    url = (folder / "objects").as_uri() if request.param == "object store" else ""
    with serving(small(folder / "home", artifact_root=url)) as api:
        api.register_model()
        files = {"model/weights.safetensors": CONTENT, "empty.txt": b"", "名 字.jsonl": b"{}\n"}
        yield api, f"/v1/jobs/{_finished(api, files)[0]}/artifacts"


def _finished(api: Api, files: dict[str, bytes]) -> tuple[str, str]:
    """A job and its attempt that published these files."""
    job: str = api.submit()["id"]
    attempt = api.start(job)
    api.finish(job, attempt, files)
    return job, attempt


def test_artifacts_are_listed_and_downloaded(stored: tuple[Api, str]) -> None:
    api, address = stored
    listed = api.client.get(address).json()["data"]
    assert [a["path"] for a in listed] == ["empty.txt", "model/weights.safetensors", "名 字.jsonl"]
    assert (listed[1]["bytes"], listed[1]["sha256"]) == (len(CONTENT), HASH)
    whole = api.client.get(f"{address}/model/weights.safetensors")
    assert (whole.status_code, whole.content) == (200, CONTENT)
    assert whole.headers["ETag"] == f'"{HASH}"'
    assert whole.headers["Accept-Ranges"] == "bytes"
    assert whole.headers["Content-Length"] == str(len(CONTENT))
    assert whole.headers["Content-Disposition"] == "attachment; filename*=UTF-8''weights.safetensors"
    named = api.client.get(f"{address}/名 字.jsonl")
    assert (named.content, named.headers["Content-Type"]) == (b"{}\n", "application/jsonl")
    assert named.headers["Content-Disposition"].endswith("%E5%90%8D%20%E5%AD%97.jsonl")
    assert api.client.get(f"{address}/empty.txt").content == b""
    head = api.client.head(f"{address}/model/weights.safetensors")
    assert (head.content, head.headers["Content-Length"]) == (b"", str(len(CONTENT)))


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=1048570-1048585", 1048570, 1048585),
        ("bytes=-5", 2559995, 2559999),
        ("bytes=2559990-", 2559990, 2559999),
        ("bytes=2559990-9999999999", 2559990, 2559999),
    ],
)
def test_a_range(stored: tuple[Api, str], asked: str, first: int, last: int) -> None:
    api, address = stored
    part = api.client.get(f"{address}/model/weights.safetensors", headers={"Range": asked})
    assert (part.status_code, part.content) == (206, CONTENT[first : last + 1])
    assert part.headers["Content-Range"] == f"bytes {first}-{last}/{len(CONTENT)}"
    assert part.headers["Content-Length"] == str(last + 1 - first)


def test_ranges_that_cannot_be_served(stored: tuple[Api, str]) -> None:
    api, address = stored
    behind = api.client.get(f"{address}/model/weights.safetensors", headers={"Range": "bytes=2560000-"})
    problem_of(behind, 416, "range_not_satisfiable")
    assert behind.headers["Content-Range"] == f"bytes */{len(CONTENT)}"
    problem_of(api.client.get(f"{address}/empty.txt", headers={"Range": "bytes=0-"}), 416, "range_not_satisfiable")
    for ignored in ("bytes=0-1,3-4", "lines=0-1", "bytes=5-2", "nonsense"):
        whole = api.client.get(f"{address}/model/weights.safetensors", headers={"Range": ignored})
        assert (whole.status_code, len(whole.content)) == (200, len(CONTENT))


def test_unchanged_artifacts_are_not_sent_again(stored: tuple[Api, str]) -> None:
    api, address = stored
    path = f"{address}/model/weights.safetensors"
    same = api.client.get(path, headers={"If-None-Match": f'W/"x", "{HASH}"'})
    assert (same.status_code, same.content) == (304, b"")
    resumed = api.client.get(path, headers={"If-Range": f'"{HASH}"', "Range": "bytes=10-19"})
    assert (resumed.status_code, resumed.content) == (206, CONTENT[10:20])
    other = api.client.get(path, headers={"If-Range": '"other"', "Range": "bytes=10-19"})
    assert (other.status_code, len(other.content)) == (200, len(CONTENT))


@pytest.mark.parametrize("path", ["nothing", "../../secret", "..%2F..%2Fjobs.sqlite3", "model", "/etc/passwd"])
def test_paths_without_an_artifact_do_not_exist(stored: tuple[Api, str], path: str) -> None:
    api, address = stored
    assert api.client.get(f"{address}/{path}").status_code == 404


def test_a_file_that_the_store_has_lost_is_an_error_before_the_answer_begins(stored: tuple[Api, str]) -> None:
    api, _ = stored
    job, attempt = _finished(api, {"lost.json": b"{}"})
    api.store.delete(Workspace(job, attempt).output)
    problem_of(api.client.get(f"/v1/jobs/{job}/artifacts/lost.json"), 500, "internal_error")


def test_a_file_that_must_match_is_sent_only_as_it_was(stored: tuple[Api, str]) -> None:
    api, address = stored
    path = f"{address}/model/weights.safetensors"
    for tags in ('"other"', f'W/"{HASH}"', "nonsense"):
        problem_of(
            api.client.get(path, headers={"If-Match": tags, "Range": "bytes=0-1"}),
            412,
            "precondition_failed",
        )
    for tags in ("*", f'"other", "{HASH}"'):
        assert api.client.get(path, headers={"If-Match": tags}).content == CONTENT


def test_a_job_that_must_match_is_shown_only_as_it_was(stored: tuple[Api, str]) -> None:
    api, address = stored
    job = address.removesuffix("/artifacts")
    now = api.client.get(job).headers["ETag"]
    assert api.client.get(job, headers={"If-Match": now}).status_code == 200
    problem_of(api.client.get(job, headers={"If-Match": '"0"'}), 412, "precondition_failed")
