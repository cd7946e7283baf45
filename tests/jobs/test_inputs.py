"""Checks of uploaded files accept what workers can read, and report the line of what they cannot."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baichuan_core.errors import DatasetError
from baichuan_core.finetuning.data import load_training_data
from baichuan_core.finetuning.formats import read_conversations
from baichuan_core.generation import read_requests
from baichuan_core.tokenizer import BaichuanTokenizer
from jobs.inputs import BatchSummary, InputError, check_batch, check_file, check_prompts, check_training_data, lines

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TURNS = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
TOKENIZER = Path(__file__).parents[1] / "golden" / "chat" / "tokenizer.model"


@pytest.fixture(scope="module")
def tokenizer() -> BaichuanTokenizer:
    return BaichuanTokenizer(str(TOKENIZER))


def line(custom_id: str = "a", url: str = "/v1/chat/completions", body: Any = CHAT, **fields: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": body, **fields}


def written(path: Path, *items: Any) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def test_a_batch_file(tmp_path: Path) -> None:
    items = [line(str(number), body={**CHAT, "max_tokens": 3, "stream": False}) for number in range(1000)]
    path = written(tmp_path / "b.jsonl", *items)
    assert check_batch(path) == BatchSummary("/v1/chat/completions", "m", 1000)
    assert check_file(path, "batch").status == "processed"
    assert check_file(path, "user_data").status == "processed"
    assert len(read_requests(path)) == 1000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([1], "is not an object"),
        (line(extra=1), "extra is not a known key"),
        (line(custom_id=""), "custom_id must be a string"),
        (line(method="GET"), "method must be POST"),
        (line(url="/v1/embeddings"), "url must be /v1/chat/completions or /v1/completions"),
        (line("b", "/v1/completions", {"model": "m", "prompt": "x"}), "url is /v1/completions, but the first"),
        (line(body=None), "body must be an object"),
        (line(body={"model": "m"}), "body.messages is missing"),
        (line(body={"messages": CHAT["messages"]}), "body.model is missing"),
        (line("b", body={**CHAT, "model": "other"}), "body.model is 'other', but the first request has 'm'"),
        (line(body={**CHAT, "tools": [{}]}), "body.tools is not supported here, except for []; leave it out"),
        (line(body={**CHAT, "stream": True}), "body.stream is not supported here, except for False; leave it out"),
        (line(body={**CHAT, "temperature": 3}), "body.temperature must be a number from 0 to 2"),
        (line(body={**CHAT, "top_p": True}), "body.top_p must be"),
        (line(body={**CHAT, "n": 0}), "body.n must be an integer from 1 to 128"),
        (line(body={**CHAT, "stop": [""]}), "body.stop must be"),
        (line(body={**CHAT, "logit_bias": {"5": 1, "05": 2}}), "body.logit_bias has the token 5 more than once"),
        (
            line(body={**CHAT, "max_tokens": 1, "max_completion_tokens": 1}),
            "body.max_completion_tokens cannot be combined with",
        ),
        (
            line(body={**CHAT, "messages": [{"role": "tool", "content": "x"}]}),
            "body.messages has the role 'tool' in message 1",
        ),
        (
            line(body={**CHAT, "messages": [{"role": "user", "content": []}]}),
            "body.messages has content that is not a string in message 1",
        ),
        (line(custom_id="\ud800"), "custom_id contains an unpaired surrogate"),
        (line(body={**CHAT, "stop": "\ud800"}), "body.stop contains an unpaired surrogate"),
        (line(), "custom_id is 'a', which line 1 already uses"),
    ],
)
def test_a_batch_line_that_cannot_run(tmp_path: Path, wrong: Any, message: str) -> None:
    path = written(tmp_path / "b.jsonl", line(), wrong)
    with pytest.raises(InputError) as caught:
        check_batch(path)
    assert str(caught.value).startswith(f"line 2: {message}")
    checked = check_file(path, "batch")
    assert (checked.status, checked.details) == ("error", str(caught.value))


def test_a_field_of_a_line_that_is_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    wrong = json.dumps(line(body={**CHAT, "logit_bias": {"5": 1}})).replace('{"5": 1}', '{"5": 1, "5": 2}')
    path.write_text(wrong)
    with pytest.raises(InputError, match=r"^line 1: body\.logit_bias\.5 is given more than once in the same object"):
        check_batch(path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("hello", 'is not an object; write {"prompt": …} or {"messages": […]}'),
        ({}, "has neither prompt nor messages"),
        ({"prompt": "a", **CHAT, "model": None}, "has both prompt and messages"),
        ({"prompt": ""}, "prompt must be a non-empty string"),
        ({"prompt": ["a"]}, "prompt must be a non-empty string"),
        ({"prompt": "a", "model": "m"}, "model is not a known key; use one of prompt, messages, id, max_new_tokens"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens must be an integer"),
        ({"prompt": "a", "max_tokens": 1, "max_new_tokens": 1}, "max_new_tokens cannot be combined with max_tokens"),
        ({"prompt": "a", "temperature": -1}, "temperature must be a number from 0 to 100"),
        ({"prompt": "a", "seed": "1"}, "seed must be an integer"),
        ({"prompt": "a", "top_logprobs": 2}, 'top_logprobs requires "logprobs": true'),
        ({"prompt": "a", "logit_bias": {"5": 1, "05": 1}}, "logit_bias has the token 5 more than once"),
        ({"prompt": "a", "id": "\ud800"}, "id contains an unpaired surrogate"),
        ({"messages": []}, "messages must be a list of messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages has the role 'tool' in message 1"),
        (line(url="/v1/embeddings"), "url must be /v1/chat/completions or /v1/completions"),
        (line(body={"model": "m"}), "body.messages is missing"),
    ],
)
def test_a_prompt_that_cannot_run(tmp_path: Path, wrong: Any, message: str) -> None:
    checked = check_file(written(tmp_path / "p.jsonl", {"prompt": "a"}, wrong), "prompts")
    assert checked.status == "error"
    assert (checked.details or "").startswith(f"line 2: {message}")


def test_files_without_prompts(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    for content, message in (
        (b"\n", "the file contains no prompts"),
        (b'[{"prompt": "a"}]', "the file is a JSON array; write one object per line"),
        (b"Hello\n", "line 1: is not JSON"),
        (b'{"prompt": "\xff"}', "line 1: is not UTF-8"),
        (b'{"prompt": "a", "prompt": "b"}', "line 1: prompt is given more than once"),
    ):
        path.write_bytes(content)
        checked = check_file(path, "prompts")
        assert (checked.status, (checked.details or "")[: len(message)]) == ("error", message)


def test_limits_of_a_batch_file(tmp_path: Path) -> None:
    for content, message in ((b"", "no request"), (b"\xff", "line 1: is not UTF-8"), (b"{", "line 1: is not JSON")):
        path = tmp_path / "b.jsonl"
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            check_batch(path)
    path.write_text("\n".join(json.dumps(line(str(number))) for number in range(50_001)))
    with pytest.raises(InputError, match="line 50001: the file has more than 50000 requests"):
        check_batch(path)
    path.write_text("\n".join(json.dumps(line(str(number))) for number in range(50_000)))
    assert check_batch(path).requests == 50_000


VALUES: list[Any] = [None, 0, 1, 2.5, -1, True, False, "x", "", [], ["x"], {}, {"7": -1}, 200, CHAT["messages"]]
PARAMETERS = [
    *("messages", "prompt", "max_tokens", "max_completion_tokens", "max_new_tokens", "temperature", "top_p", "top_k"),
    *("seed", "n", "stop", "stream", "logprobs", "echo", "frequency_penalty", "logit_bias", "best_of", "user", "tools"),
    "presence_penalty",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(["/v1/chat/completions", "/v1/completions"]),
    st.dictionaries(st.sampled_from(PARAMETERS), st.sampled_from(VALUES), max_size=3),
)
def test_workers_can_read_every_batch_line_that_is_accepted(tmp_path: Path, url: str, body: dict[str, Any]) -> None:
    source = {"messages": CHAT["messages"]} if "chat" in url else {"prompt": "x"}
    path = written(tmp_path / "b.jsonl", line(url=url, body={"model": "m", **source, **body}))
    try:
        check_batch(path)
    except InputError:
        return
    assert len(read_requests(path)) == 1


PROMPT_KEYS = [*PARAMETERS, "id", "top_logprobs", "repetition_penalty"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(
    st.sampled_from([{"prompt": "x"}, {"messages": CHAT["messages"]}, {}]),
    st.dictionaries(st.sampled_from(PROMPT_KEYS), st.sampled_from(VALUES), max_size=3),
    st.sampled_from([None, "/v1/chat/completions", "/v1/completions"]),
)
def test_prompts_are_accepted_as_generate_jobs_accept_them(
    tmp_path: Path, source: dict[str, Any], fields: dict[str, Any], url: str | None
) -> None:
    item = {**source, **fields}
    path = written(tmp_path / "p.jsonl", item if url is None else line(url=url, body={"model": "m", **item}))
    try:
        requests = read_requests(path)
    except DatasetError:
        with pytest.raises(InputError):
            check_prompts(path)
        return
    if requests[0].prompt == "" or requests[0].messages == []:  # these fail when they are encoded
        with pytest.raises(InputError):
            check_prompts(path)
    else:
        check_prompts(path)


TRAINING_ITEMS: list[Any] = [
    {"conversations": TURNS},
    {"conversations": TURNS[:1]},
    {"conversations": [{"from": "system", "value": "s"}]},
    {"conversations": [TURNS[0], {"from": "gpt", "value": ""}]},
    {"conversations": [TURNS[0], {"from": "gpt", "value": "\ud800"}]},
    {"conversations": [TURNS[0], {"from": "gpt", "value": " "}]},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}]},
    {"instruction": "i"},
    {"instruction": "i", "history": [["q", "a"]]},
    {"text": ""},
    {"id": "1", "conversations": TURNS, "system": "s"},
    {"conversations": [{"from": "system", "value": "s"}, *TURNS]},
    {"conversations": [{"from": "system", "value": "s"}, *TURNS], "system": "t"},
    {"conversations": [*TURNS, {"from": "system", "value": "s"}]},
    {"conversations": []},
    {"conversations": [{"from": "human"}]},
    {"conversations": [{"from": "nobody", "value": "x"}]},
    {"conversations": [{"from": "human", "value": 1}]},
    {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    {"messages": [{"role": "user", "content": "q", "weight": 1}]},
    {"messages": [{"role": "tool", "content": "q"}]},
    {"messages": "x"},
    {"instruction": "i", "output": "o"},
    {"instruction": "i", "input": None, "output": "o", "history": [["q", "a"]]},
    {"instruction": "i", "history": [["q"]]},
    {"instruction": 1},
    {"text": "t"},
    {"text": 1},
    {"text": "t", "other": 1},
    {"nothing": 1},
    [],
    "x",
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.lists(st.sampled_from(TRAINING_ITEMS), max_size=2), st.booleans(), st.sampled_from(["", "\ufeff", "\n "]))
def test_checks_accept_the_same_training_data_as_fine_tuning_jobs(
    tokenizer: BaichuanTokenizer, tmp_path: Path, items: list[Any], is_array: bool, before: str
) -> None:
    path = tmp_path / "data.json"
    rows = [json.dumps(item) for item in items]
    path.write_text(before + ("[" + ",\n".join(rows) + "]" if is_array else "\n".join(rows)), encoding="utf-8")
    refused: str | None = None
    try:
        load_training_data(tokenizer, path, max_length=64)
    except DatasetError as error:
        refused = str(error)
    if refused is None:
        check_training_data(path)
        return
    with pytest.raises(InputError) as caught:
        check_training_data(path)
    assert caught.value.line is None or f"line {caught.value.line} " in refused or "no example" in refused


EXAMPLE = b'{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}\n'


@pytest.mark.parametrize("name", ["a.jsonl", "a.JSON"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (EXAMPLE[3:] + EXAMPLE, "line 1: is not JSON: "),
        (b"x", "line 1: is not JSON: "),
        (b"\n\n# comment\n" + EXAMPLE, "line 3: is not JSON: "),
        (b"prompt,completion\nhi,yo\n", "line 1: is not JSON: "),
        (b'"hello"\n', "line 1: is not an object"),
        (b"1\n2\n", "line 1: is not an object"),
        (b"null\n", "line 1: is not an object"),
    ],
)
def test_a_file_named_as_json_is_not_plain_text(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / "upload").write_bytes(content)
    checked = check_file(tmp_path / "upload", "fine-tune", name)
    assert checked.status == "error"
    assert (checked.details or "").startswith(message)
    assert (checked.details or "").endswith("; to train on plain text, give the file a name that ends in .txt")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=f"^{message[:6]} .*give the file a name that ends in .txt$"):
        read_conversations(tmp_path / name)
    for other in ("upload", "a.txt", "a.md"):
        assert check_file(tmp_path / "upload", "fine-tune", other).status == "processed"


@pytest.mark.parametrize("name", ["a", "a.txt", "a.md", "a.jsonl"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"one\r\ntwo\x00\n", "line 2: contains the control character U+0000"),
        (b"\x1b[1mbold", "line 1: contains the control character U+001B"),
        (b"%PDF-1.7\n", "the file is a PDF document"),
        (b"\x89PNG\r\n", "the file is not UTF-8"),
    ],
)
def test_binary_files_are_not_training_data(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    checked = check_file(tmp_path / name, "fine-tune")
    assert (checked.status, (checked.details or "")[: len(message)]) == ("error", message)
    with pytest.raises(DatasetError):
        list(read_conversations(tmp_path / name)[0].text or ())


@pytest.mark.parametrize("suffix", ["csv", "tsv", "xls", "XLSX", "parquet", "pdf", "doc", "docx"])
def test_tables_and_documents_are_not_training_data(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text("question,answer")
    checked = check_file(path, "fine-tune")
    assert checked.status == "error"
    assert "; convert it to" in (checked.details or "")
    with pytest.raises(DatasetError, match="; convert it to"):
        read_conversations(path)


@pytest.mark.parametrize("role", ["user", "assistant", "system"])
def test_an_unpaired_surrogate_in_training_data(tmp_path: Path, role: str) -> None:
    turns = [{"role": role, "content": "\ud800"}, {"role": "assistant", "content": "a"}]
    path = tmp_path / "a.jsonl"
    path.write_bytes(EXAMPLE + json.dumps({"messages": turns}).encode())
    checked = check_file(path, "fine-tune")
    assert checked.details == (
        "line 2: turn 1 has a 'content' that contains an unpaired surrogate; write the whole character"
    )


@pytest.mark.parametrize(
    ("items", "remedy"),
    [
        ([{"conversations": TURNS[:1]}], "a 'gpt' turn with text"),
        ([{"messages": [{"role": "system", "content": "s"}]}] * 2, "an 'assistant' turn with text"),
        ([{"messages": [{"role": "assistant", "content": ""}]}], "an 'assistant' turn with text"),
        ([{"instruction": "i", "output": ""}, {"instruction": "i"}], "an 'output' with text"),
        ([{"text": ""}], "a 'text' that is not empty"),
    ],
)
def test_training_data_without_an_answer(tmp_path: Path, items: list[Any], remedy: str) -> None:
    checked = check_file(written(tmp_path / "a.jsonl", *items), "fine-tune")
    reason = f"no example has an answer to learn; add {remedy} to at least one example"
    assert (checked.status, checked.details) == ("error", reason)


@pytest.mark.parametrize("is_array", [False, True])
def test_a_key_of_an_example_that_is_given_twice(tmp_path: Path, is_array: bool) -> None:
    wrong = EXAMPLE.replace(b'"content": "q"', b'"content": "q", "content": "r"')
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + EXAMPLE + b"," + wrong + b"]" if is_array else EXAMPLE + wrong)
    checked = check_file(path, "fine-tune")
    reason = "line 2: messages.0.content is given more than once in the same object; keep only one"
    assert (checked.status, checked.details) == ("error", reason)
    with pytest.raises(DatasetError, match=r"line 2 .*'content' is given more than once in the same object"):
        read_conversations(path)


def test_details_contain_no_characters_that_a_database_cannot_store(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(r'{"\ud800\u0000长": 1, "\ud800\u0000长": 2}', encoding="utf-8")
    for purpose in ("fine-tune", "batch", "prompts"):
        assert (check_file(path, purpose).details or "").startswith(r"line 1: \ud800\x00长 is given more than once")


@pytest.mark.parametrize("is_array", [False, True])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ('"a\0b"', r"a string contains an unescaped control character; write it as \u0000, or remove it"),
        ('"a\tb"', r"a string contains an unescaped control character; write it as \t, or remove it"),
        ("1" * 5000, "a number has more than 4300 digits; shorten it, or write it as a string"),
        ("[" * 100_000, "it has too many nested brackets"),
    ],
)
def test_reasons_why_a_line_is_not_json(tmp_path: Path, value: str, reason: str, is_array: bool) -> None:
    path = tmp_path / "a.json"
    item = f'{{"text": {value}}}'
    path.write_text(f'[{{"text": "a"}},\n{item}]\n\n' if is_array else f'{{"text": "a"}}\n{item}\n')
    details = check_file(path, "fine-tune").details or ""
    assert details.startswith(f"line 2: is not JSON: {reason}")
    with pytest.raises(DatasetError, match="line 2 .*" + re.escape(reason)):
        read_conversations(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04....", "ZIP archive"),
        (b"<html>", "web page"),
        (b"  \n", "no example"),
        (b"\xff\xfe", "not UTF-8"),
        (b'[{"text": "a"} {"text": "b"}]', "line 1: expected ','"),
        (b'[{"text": "a"},\n{"text": "b"]\n\n\n', "line 2: is not JSON"),
        (b'[{"text": "a"}] x', "text after the end"),
        (b'[{"text": "a"}', "expected ','"),
        (b'{"text": "a"}\n{"text": ', "line 2: is not JSON"),
    ],
)
def test_files_that_are_not_training_data(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        check_training_data(path)


def test_long_arrays_are_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.json"
    items = [{"text": "长" * number} for number in range(50)]
    path.write_text(json.dumps(items, ensure_ascii=False, indent=1), encoding="utf-8")
    monkeypatch.setattr(lines, "CHUNK_CHARACTERS", 7)
    assert [item for _, item in lines.read_array(path)] == items
    assert [number for number, _ in lines.read_array(path)] == list(range(2, 152, 3))


def test_plain_text_is_training_data(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_text("Once upon a time.")
    assert check_file(path, "fine-tune").status == "processed"
