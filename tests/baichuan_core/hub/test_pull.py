"""Downloads from a local hub."""

import errno
import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from baichuan_core.errors import (
    BaichuanError,
    CheckpointError,
    HubError,
    HubUnreachableError,
    InsufficientSpaceError,
    UnsupportedError,
)
from baichuan_core.hub import Hub, PullReport, pull
from baichuan_core.hub import downloads as downloads_module
from baichuan_core.progress import Progress
from tests.hub_server import HubServer, Repository, hub_server
from tests.model_files import CONFIG, write_model_files, write_zeros

NAME = "baichuan-inc/Tiny"
WEIGHTS = "model.safetensors"
CODE = {"modeling_baichuan.py": b"raise SystemExit", "tokenization_baichuan.py": b"raise SystemExit"}


def _noise(size: int) -> bytes:
    """Return bytes that look random, the same at each call."""
    return b"".join(hashlib.sha256(number.to_bytes(8)).digest() for number in range(size // 32 + 1))[:size]


class KilledError(Exception):
    """The process ends here."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(downloads_module, "FIRST_RETRY_DELAY_SECONDS", 0.0)
    with hub_server() as running:
        yield running


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A checkpoint with weights of 70 kB, no two places of which are equal."""
    folder = tmp_path / "published"
    write_model_files(folder, vocab_size=256, hidden_size=64)
    whole = (folder / WEIGHTS).read_bytes()
    header = whole[: 8 + int.from_bytes(whole[:8], "little")]
    (folder / WEIGHTS).write_bytes(header + _noise(len(whole) - len(header)))
    return folder


@pytest.fixture
def fetch(server: HubServer, tmp_path: Path) -> Callable[..., PullReport]:
    def fetch_model(run: str = "run", token: str | None = None, **options: Any) -> PullReport:
        hub = Hub(server.url, token)
        return pull(NAME, tmp_path / run / "model", downloads=tmp_path / run / "downloads", hub=hub, **options)

    return fetch_model


def test_the_model_is_downloaded_and_code_is_not(
    server: HubServer, model: Path, fetch: Callable[..., PullReport], tmp_path: Path
) -> None:
    texts = {"README.md": b"# Tiny", "LICENSE": b"free", "Community License for Baichuan2 Model.pdf": b"%PDF"}
    templates = {"chat_template.jinja": b"{{ messages }}", "additional_chat_templates/tools.jinja": b"{{ tools }}"}
    others = {"pytorch_model.bin": b"pickled", "assets/logo.png": b"png", "LICENSE.py": b"code", ".gitattributes": b""}
    server.repositories[NAME] = Repository.of(model, **texts, **templates, **CODE, **others)
    reports: list[Progress] = []
    report = fetch(on_progress=reports.append)
    output = tmp_path / "run" / "model"
    written = {path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    expected = {path.name: path.read_bytes() for path in model.iterdir()} | texts | templates
    assert written == expected
    assert server.requested_files() == set(expected)
    assert sorted(report.skipped) == sorted([*CODE, *others])
    assert (report.endpoint, report.revision, report.commit) == (server.url, "main", server.repositories[NAME].commit)
    assert report.files == len(expected)
    assert report.bytes == report.received_bytes == sum(map(len, expected.values()))
    fractions = [each.fraction for each in reports]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    figures = next(each.metrics for each in reversed(reports) if each.stage == "downloading")
    assert figures["downloaded_bytes"] == figures["total_bytes"] == report.bytes


def test_a_dropped_connection_is_resumed_in_the_middle_of_a_file(
    server: HubServer, model: Path, fetch: Callable[..., PullReport], tmp_path: Path
) -> None:
    server.repositories[NAME] = Repository.of(model)
    server.drops[WEIGHTS] = [5000, 5000, 20_000]
    report = fetch()
    assert server.ranges(WEIGHTS) == [None, "bytes=5000-", "bytes=5000-", "bytes=20000-"]
    assert (tmp_path / "run/model" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    assert report.received_bytes == report.bytes


def test_a_later_run_downloads_only_what_is_missing(
    server: HubServer, model: Path, fetch: Callable[..., PullReport], tmp_path: Path
) -> None:
    def die(progress: Progress) -> None:
        if progress.metrics.get("downloaded_bytes", 0) > begun:
            raise KilledError

    server.repositories[NAME] = Repository.of(model)
    server.drops[WEIGHTS] = [30_000]
    begun = sum(file.stat().st_size for file in model.iterdir()) - (model / WEIGHTS).stat().st_size
    with pytest.raises(KilledError):
        fetch("killed", on_progress=die)
    (part,) = (tmp_path / "killed/downloads").glob("*.part")
    present = part.stat().st_size
    assert 0 < present <= 30_000
    server.requests.clear()
    report = fetch("next", earlier=[tmp_path / "killed/downloads"])
    assert server.requested_files() == {WEIGHTS}
    assert server.ranges(WEIGHTS) == [f"bytes={present}-"]
    assert report.received_bytes == (model / WEIGHTS).stat().st_size - present
    assert (tmp_path / "next/model" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    server.requests.clear()
    again = fetch("last", earlier=[tmp_path / "next/downloads", tmp_path / "killed/downloads"])
    assert (again.received_bytes, server.requested_files()) == (0, set())


def test_damaged_remains_of_a_run_are_replaced(
    server: HubServer, model: Path, fetch: Callable[..., PullReport], tmp_path: Path
) -> None:
    server.repositories[NAME] = Repository.of(model)
    digest = server.repositories[NAME].describe(NAME)["siblings"]
    sha256 = next(each["lfs"]["sha256"] for each in digest if each["rfilename"] == WEIGHTS)
    folder = tmp_path / "run/downloads"
    folder.mkdir(parents=True)
    (folder / f"sha256-{sha256}.part").write_bytes(b"x" * 100)
    reports: list[Progress] = []
    total = fetch(on_progress=reports.append).bytes
    assert [each.metrics["downloaded_bytes"] for each in reports if each.stage == "downloading"][-1] == total
    assert server.ranges(WEIGHTS) == ["bytes=100-", None]
    assert (tmp_path / "run/model" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()


def test_a_server_without_ranges_sends_the_file_again(
    server: HubServer, model: Path, fetch: Callable[..., PullReport], tmp_path: Path
) -> None:
    server.repositories[NAME], server.has_ranges = Repository.of(model), False
    server.drops[WEIGHTS] = [5000]
    fetch()
    assert (tmp_path / "run/model" / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()


@pytest.mark.parametrize("path", [WEIGHTS, "config.json"])
@pytest.mark.parametrize("change", ["same length", "longer"])
def test_another_content_than_announced_is_refused(
    server: HubServer, model: Path, fetch: Callable[..., PullReport], tmp_path: Path, path: str, change: str
) -> None:
    server.repositories[NAME] = Repository.of(model)
    content = (model / path).read_bytes()
    server.replaced[path] = content + b"!" if change == "longer" else content[:-1] + b"!"
    with pytest.raises(HubError, match=rf"sent content for {path} of {NAME} that differs") as caught:
        fetch()
    assert not caught.value.may_pass
    assert not (tmp_path / "run/model").exists()
    assert not list((tmp_path / "run/downloads").glob("*.part"))


def test_a_private_repository_needs_the_token_and_storage_never_sees_it(
    server: HubServer, model: Path, fetch: Callable[..., PullReport]
) -> None:
    server.repositories[NAME] = Repository.of(model)
    server.repositories[NAME].token = "secret"
    with pytest.raises(HubError, match=r"does not exist or is private: .* set HF_TOKEN"):
        fetch()
    with pytest.raises(HubError, match="HF_TOKEN has no access to it"):
        fetch(token="wrong")
    server.requests.clear()
    fetch(token="secret")
    by_storage = {url.startswith("/storage/"): "authorization" in headers for _, url, headers in server.requests}
    assert by_storage == {False: True, True: False}


@pytest.mark.parametrize(("token", "remedy"), [(None, "accept its terms there, and set HF_TOKEN"), ("x", "account")])
def test_a_gated_repository_says_where_to_accept_its_terms(
    server: HubServer, model: Path, fetch: Callable[..., PullReport], token: str | None, remedy: str
) -> None:
    server.repositories[NAME] = Repository.of(model)
    server.repositories[NAME].token, server.repositories[NAME].is_gated = "secret", True
    with pytest.raises(HubError, match=f"{server.url}/{NAME} is gated: .*{remedy}"):
        fetch(token=token)


def test_a_missing_repository_or_revision_is_named(
    server: HubServer, model: Path, fetch: Callable[..., PullReport]
) -> None:
    with pytest.raises(HubError, match=f"{NAME} does not exist"):
        fetch()
    server.repositories[NAME] = Repository.of(model)
    with pytest.raises(HubError, match=r"has no revision 'v9\.9': use an existing branch, tag or commit"):
        fetch(revision="v9.9")
    server.repositories[NAME].revisions = ("main", "refs/pr/1")
    assert fetch(revision="refs/pr/1").commit == server.repositories[NAME].commit


def test_a_hub_that_does_not_answer_may_answer_later(
    server: HubServer, model: Path, fetch: Callable[..., PullReport], tmp_path: Path
) -> None:
    server.repositories[NAME] = Repository.of(model)
    server.status = 503
    with pytest.raises(HubUnreachableError, match="responded with status 503: try again later"):
        fetch()
    server.status = None
    server.drops[WEIGHTS] = [5000] * 20
    with pytest.raises(HubUnreachableError, match=r"is not responding .*: check the network"):
        fetch()
    server.drops.clear()
    assert fetch().received_bytes < (model / WEIGHTS).stat().st_size
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # nobody listens
        hub = Hub(f"http://127.0.0.1:{probe.getsockname()[1]}")
        with pytest.raises(HubUnreachableError, match="set HF_ENDPOINT to a mirror"):
            pull(NAME, tmp_path / "none", downloads=tmp_path / "downloads", hub=hub)


def test_an_address_that_is_no_hub_is_named(tmp_path: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Repository, "describe", lambda _self, name: [name])
    server.repositories[NAME] = Repository({})
    for endpoint, fault in ((server.url, "does not respond like a hub"), ("hub.example", "is not the address")):
        with pytest.raises(HubError, match=f"{fault} .*: correct HF_ENDPOINT"):
            pull(NAME, tmp_path / "none", downloads=tmp_path / "downloads", hub=Hub(endpoint))


def test_offline_mode_is_named(server: HubServer, fetch: Callable[..., PullReport], monkeypatch: Any) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set"):
        fetch()
    assert server.requests == []


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({WEIGHTS: None}, HubError, "has no weights: expected one of model.safetensors"),
        ({WEIGHTS: None, "weights/model.safetensors": b"x"}, HubError, "has no weights"),
        ({WEIGHTS: None, "a.gguf": b"x", "b.gguf": b"x"}, HubError, "has 2 GGUF files and no checkpoint"),
        ({"tokenizer.model": None}, HubError, "has no tokenizer.model: pull the published repository"),
        ({"quantize_config.json": b"{}"}, UnsupportedError, "was quantized with AutoGPTQ or AutoAWQ"),
        ({"config.json": b'{"model_type": "llama"}'}, CheckpointError, f"{NAME}/config.json"),
        ({"config.json": json.dumps(CONFIG | {"quantization_config": {"bits": 4}}).encode()}, UnsupportedError, NAME),
    ],
)
def test_what_is_no_model_of_the_family_costs_no_large_download(
    server: HubServer,
    model: Path,
    fetch: Callable[..., PullReport],
    files: dict[str, bytes | None],
    error: type[BaichuanError],
    message: str,
) -> None:
    found = Repository.of(model).files | files
    server.repositories[NAME] = Repository({path: content for path, content in found.items() if content is not None})
    with pytest.raises(error, match=message):
        fetch()
    assert not {WEIGHTS, "a.gguf"} & server.requested_files()


def test_weights_that_do_not_fit_the_configuration_are_refused_at_the_end(
    server: HubServer, model: Path, fetch: Callable[..., PullReport], tmp_path: Path
) -> None:
    write_zeros(model / WEIGHTS, {"model.norm.weight": (64,)})
    server.repositories[NAME] = Repository.of(model)
    with pytest.raises(CheckpointError, match=f"{NAME}.* lacks|{NAME}"):
        fetch()
    assert not (tmp_path / "run/model").exists()


def _divide(model: Path, shard: str) -> None:
    """Turn the weights into one shard with an index."""
    (model / WEIGHTS).rename(model / shard)
    size = int.from_bytes((model / shard).read_bytes()[:8], "little")
    header = json.loads((model / shard).read_bytes()[8 : 8 + size])
    index = {"weight_map": dict.fromkeys(header, shard)}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_those_that_the_index_names(
    server: HubServer, model: Path, fetch: Callable[..., PullReport], tmp_path: Path
) -> None:
    _divide(model, "weights-of-mine.safetensors")
    more = {"consolidated.safetensors": b"the same again", "pytorch_model-00001-of-00001.bin": b"pickled"}
    server.repositories[NAME] = Repository.of(model, **more)
    report = fetch()
    assert {path.name for path in (tmp_path / "run/model").iterdir()} == {path.name for path in model.iterdir()}
    assert set(report.skipped) == set(more)


def test_an_adapter_and_a_gguf_file_are_models_too(
    server: HubServer, model: Path, fetch: Callable[..., PullReport], tmp_path: Path
) -> None:
    layer = "base_model.model.model.layers.0.self_attn.W_pack"
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["W_pack"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    shapes: dict[str, tuple[int, ...]] = {f"{layer}.lora_A.weight": (2, 8), f"{layer}.lora_B.weight": (24, 2)}
    write_zeros(adapter / "adapter_model.safetensors", shapes)
    server.repositories[NAME] = Repository.of(adapter, **{"optimizer.bin": b"state", "adapter_model.bin": b"pickled"})
    assert set(fetch("adapter-run").skipped) == {"optimizer.bin", "adapter_model.bin"}
    (model / WEIGHTS).rename(model / "tiny-q8_0.gguf")
    (model / "tiny-q8_0.gguf").write_bytes(b"GGUF and numbers")
    server.repositories[NAME] = Repository.of(model)
    assert fetch("gguf-run").skipped == ()


@pytest.mark.parametrize("shard", ["model-00001-of-00001.safetensors", "modeling_baichuan.py"])
def test_an_index_leads_only_to_weights_of_the_repository(
    server: HubServer, model: Path, fetch: Callable[..., PullReport], shard: str
) -> None:
    _divide(model, shard)
    content = (model / shard).read_bytes()
    (model / shard).unlink()
    server.repositories[NAME] = Repository.of(model, **({shard: content} if shard.endswith(".py") else {}))
    with pytest.raises(HubError, match=f"lacks {shard}, which model.safetensors.index.json lists"):
        fetch()
    assert shard not in server.requested_files()


def test_names_and_hashes_of_a_hub_lead_nowhere_else(
    server: HubServer, model: Path, fetch: Callable[..., PullReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = {"../LICENSE": b"x", "/README.md": b"x", "additional_chat_templates/../../a.jinja": b"x", "NOTICE\n": b""}
    server.repositories[NAME] = Repository.of(model, **outside)
    report = fetch()
    assert set(report.skipped) == set(outside) - {"NOTICE\n"}
    described = server.repositories[NAME].describe(NAME)
    described["siblings"][0]["blobId"] = "../../x"
    described["siblings"][0].pop("lfs", None)
    monkeypatch.setattr(Repository, "describe", lambda _self, _name: described)
    with pytest.raises(HubError, match="is not a hexadecimal hash"):
        fetch("second")
    assert {path.name for path in tmp_path.iterdir()} == {"published", "run", "second"}


def test_room_is_looked_for_before_the_weights_and_a_full_disk_is_named(
    server: HubServer, model: Path, fetch: Callable[..., PullReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.repositories[NAME] = Repository.of(model)
    with pytest.raises(InsufficientSpaceError, match="free some space"):
        fetch(reserve_bytes=2**60)
    assert WEIGHTS not in server.requested_files()

    def fill(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("baichuan_core.hub.downloads.os.fsync", fill)
    with pytest.raises(InsufficientSpaceError, match="is full: delete files you no longer need"):
        fetch()
