"""The official client chats with a tiny model, in real processes: cold, warm, concurrently, and aborted."""

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.system.conftest import Service

MESSAGES: Any = [{"role": "user", "content": "你好"}]


@pytest.fixture
def settings(service: Service) -> dict[str, Any]:
    """How a client reaches the service."""
    key = service.http.headers["Authorization"].removeprefix("Bearer ")
    return {"base_url": f"{service.http.base_url}/v1", "api_key": key, "_strict_response_validation": True}


def list_serve_jobs(service: Service) -> list[dict[str, Any]]:
    """Return the jobs that serve models."""
    jobs: list[dict[str, Any]] = (
        service.http.get("/v1/jobs", params={"kind": "serve"}).raise_for_status().json()["data"]
    )
    return jobs


@pytest.mark.alone  # a runner starts and loads the model
def test_cold_then_warm_then_streamed(service: Service, settings: dict[str, Any]) -> None:
    with openai.OpenAI(**settings, max_retries=0, timeout=90) as client:
        cold = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=8, temperature=0)
        (job,) = list_serve_jobs(service)
        assert job["state"] == "running"
        assert cold.usage is not None
        warm = client.chat.completions.create(model="tiny", messages=MESSAGES, max_tokens=8, temperature=0)
        assert warm.choices[0].message == cold.choices[0].message
        chunks = client.chat.completions.create(
            model="tiny",
            messages=MESSAGES,
            max_tokens=8,
            temperature=0,
            stream=True,
            logprobs=True,
            top_logprobs=2,
            stream_options={"include_usage": True},
        )
        texts, usage = [], None
        for chunk in chunks:
            texts += [choice.delta.content or "" for choice in chunk.choices]
            usage = chunk.usage or usage
        assert "".join(texts) == cold.choices[0].message.content
        assert usage == cold.usage
        long: Any = [{"role": "user", "content": "1" * 400}]
        whole = client.chat.completions.create(model="tiny", messages=long, max_tokens=500, logit_bias={"2": -100})
        assert whole.usage is not None
        assert whole.usage.prompt_tokens > 400
        assert (whole.usage.total_tokens, whole.choices[0].finish_reason) == (512, "length")
        text = client.completions.create(model="tiny", prompt=["a", "b"], max_tokens=3, seed=1)
        assert [choice.index for choice in text.choices] == [0, 1]
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="tiny", prompt="long " * 2000)
        assert refused.value.param == "prompt"
    # What a batch job on the same checkpoint writes with the same parameters.
    spec = {"conversations": [MESSAGES], "max_new_tokens": 8, "temperature": 0}
    assert [each["id"] for each in list_serve_jobs(service)] == [job["id"]]
    service.http.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()
    batch = service.run(kind="generate", model="tiny", **spec)
    written = service.http.get(f"/v1/jobs/{batch['id']}/artifacts/completions.jsonl").text
    assert json.loads(written)["completion"] == cold.choices[0].message.content


@pytest.mark.alone  # as above
def test_many_concurrent_chats_and_some_that_disconnect(service: Service, settings: dict[str, Any]) -> None:
    async def chat(client: openai.AsyncOpenAI, number: int) -> int:
        stream = await client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=16, seed=number, stream=True, temperature=1
        )
        count = 0
        async for _ in stream:
            count += 1
            if number % 4 == 0:
                await stream.close()
                break
        return count

    async def run() -> list[int]:
        async with openai.AsyncOpenAI(**settings, timeout=90) as client:
            return await asyncio.gather(*(chat(client, number) for number in range(16)))

    counts = asyncio.run(run())
    assert all(count >= 1 for count in counts)
    (job,) = [each for each in list_serve_jobs(service) if each["state"] == "running"]
    service.http.post(f"/v1/jobs/{job['id']}/cancel").raise_for_status()
    assert service.finished(f"/v1/jobs/{job['id']}")["state"] == "cancelled"
