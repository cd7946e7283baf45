"""Features that depend on the database: filters by metadata, artifacts as inputs, uploads and retries."""

import openai
import pytest

from tests.api.conftest import Api
from tests.api.openai.conftest import EXAMPLES, batch_file, client_of, lines

ODD = {"ключ.1": "v", 'a "quote"': "\\"}


def test_on_each_database(either_api: Api) -> None:
    api = either_api
    api.register_model()
    with client_of(api, strict=True) as client:
        maker = api.submit()["id"]
        api.finish(maker, api.start(maker), {"data.jsonl": lines(EXAMPLES)})
        made = next(file for file in client.files.list() if file.filename == "data.jsonl")
        jobs = [
            client.fine_tuning.jobs.create(model="base", training_file=made.id, metadata={"n": str(number), **ODD})
            for number in range(2)
        ]
        found = client.fine_tuning.jobs.list(metadata={"n": "1", **ODD})
        assert [job.id for job in found] == [jobs[1].id]
        with pytest.raises(openai.ConflictError, match="is used by"):
            client.files.delete(made.id)

        headers = {"x-stainless-retry-count": "1"}
        again = client.fine_tuning.jobs.create(
            model="base", training_file=made.id, metadata={"n": "0", **ODD}, extra_headers=headers
        )
        assert again.id == jobs[0].id

        file = batch_file(client)
        batch = client.batches.create(input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h")
        api.submit(kind="generate", prompts=["x"])
        assert [each.id for each in client.batches.list()] == [batch.id]

        upload = client.uploads.create(bytes=6, filename="a", mime_type="text/plain", purpose="user_data")
        parts = [client.uploads.parts.create(upload.id, data=data).id for data in (b"abc", b"def")]
        done = client.uploads.complete(upload.id, part_ids=parts)
        assert done.file is not None
        assert client.files.content(done.file.id).text == "abcdef"
        assert client.fine_tuning.jobs.pause(jobs[0].id).status == "queued"
        assert len(list(client.fine_tuning.jobs.list_events(jobs[0].id))) == 2
