"""`python -m api.openapi` writes the OpenAPI document to docs/openapi.json, so that reviewers see its changes."""

import json
from pathlib import Path

from api.main import create_app
from api.settings import ApiSettings

SNAPSHOT_PATH = Path(__file__).parent.parent / "docs" / "openapi.json"


def render_document() -> str:
    """Return the OpenAPI document as JSON, formatted as in the snapshot."""
    return json.dumps(create_app(ApiSettings()).openapi(), indent=2, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    SNAPSHOT_PATH.parent.mkdir(exist_ok=True)
    SNAPSHOT_PATH.write_text(render_document(), encoding="utf-8")
