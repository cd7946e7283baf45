"""The README is correct: its configuration table equals the settings, and its links work."""

import re
from pathlib import Path

from pydantic import AliasChoices
from pydantic_settings import BaseSettings

from api.settings import ApiSettings
from jobs.settings import Settings
from jobs.specs import KINDS
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")
INTERNAL = {"BAICHUAN_LISTEN_FD"}  # for `baichuan up` alone


def rows(settings: type[BaseSettings], *, without: type[BaseSettings] | None = None) -> list[str]:
    """The table's rows for a class of settings."""
    known = without.model_fields if without else {}
    lines = []
    for name, field in settings.model_fields.items():
        alias = field.validation_alias
        assert not isinstance(alias, AliasChoices)
        variable = str(alias or f"{settings.model_config['env_prefix']}{name}".upper())
        if name in known or variable in INTERNAL:
            continue
        default = None if field.default_factory else field.get_default()
        shown = "" if default in ("", (), None) or default == KINDS else f"`{default}`"
        lines.append(f"| `{variable}` | {shown} | {field.description} |")
    return lines


def test_the_configuration_table_equals_the_settings() -> None:
    expected = [*rows(Settings), *rows(ApiSettings, without=Settings), *rows(WorkerSettings)]
    table = [line for line in README.splitlines() if re.match(r"\| `(BAICHUAN_|DATABASE_URL|REDIS_URL|ARTIFACT)", line)]
    assert table == expected, "\n".join(["the table should be:", *expected])


def shape(text: str) -> tuple[list[str], list[str]]:
    """The levels of a document's headings, and its code without comments."""
    code = re.findall(r"^``.*?^``", text, re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+(?= )", re.sub(r"^``.*?^``", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return headings, [re.sub(r"\s*# .*", "", block) for block in code]


def test_the_chinese_readme_has_the_same_headings_commands_and_kinds() -> None:
    assert shape(CHINESE) == shape(README)
    assert [kind for kind in KINDS if f"| `{kind}` |" not in CHINESE] == []


def test_links_point_to_files() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README + CHINESE)
    assert len(targets) > 3
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []


def test_every_job_kind_is_explained() -> None:
    assert [kind for kind in KINDS if f"| `{kind}` |" not in README] == []
