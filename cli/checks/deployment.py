"""Checks the parts of a deployment that this machine can reach directly: database, Redis, disk, model roots."""

import os
import shutil

from sqlalchemy.exc import SQLAlchemyError

from cli.checks.result import CheckResult
from cli.deployment_settings import read_deployment_settings
from cli.errors import CommandError
from cli.output import format_size
from jobs.database import Database
from jobs.settings import Settings
from jobs.transport import Transport


def check_deployment() -> list[CheckResult]:
    """Check the database, Redis, the disk and the model roots that the environment configures."""
    try:
        settings = read_deployment_settings()
    except CommandError as error:
        return [CheckResult("settings", "failed", str(error), "see the table of settings in the README")]
    return [_check_database(settings), _check_redis(settings), _check_disk(settings), *_check_model_roots(settings)]


def _check_database(settings: Settings) -> CheckResult:
    database = Database(settings.effective_database_url)
    shown = database.url.render_as_string(hide_password=True)
    try:
        migrated = database.is_migrated()
    except (SQLAlchemyError, OSError) as error:
        reason = str(error).splitlines()[0]
        return CheckResult("database", "failed", f"{shown}: {reason}", "start the database, or correct DATABASE_URL")
    finally:
        database.close()
    if not migrated:
        return CheckResult("database", "failed", f"{shown} is not at the latest revision", "run `baichuan init`")
    return CheckResult("database", "ok", shown)


def _check_redis(settings: Settings) -> CheckResult:
    transport = Transport(settings)
    try:
        reachable = transport.is_reachable()
    finally:
        transport.close()
    if reachable:
        return CheckResult("redis", "ok", "responds")
    remedy = "start `baichuan up`" if not settings.redis_url else "start Redis, or correct REDIS_URL"
    return CheckResult("redis", "failed", "is not responding; jobs are accepted, but wait", remedy)


def _check_disk(settings: Settings) -> CheckResult:
    where = settings.home if settings.home.exists() else settings.home.resolve().parent
    if "://" in settings.effective_artifact_root:
        return CheckResult("disk", "note", f"artifacts are stored at {settings.effective_artifact_root}")
    free = shutil.disk_usage(where).free
    detail = f"{format_size(free)} free at {where.resolve()}"
    if free < settings.free_space_reserve_bytes:
        return CheckResult("disk", "failed", detail, "free some space, or set ARTIFACT_ROOT to a larger disk")
    return CheckResult("disk", "ok", detail)


def _check_model_roots(settings: Settings) -> list[CheckResult]:
    return [
        CheckResult("model root", "ok", str(root))
        if root.is_dir() and os.access(root, os.R_OK | os.X_OK)
        else CheckResult(
            "model root", "failed", f"{root} is not a readable directory", "create it, or set BAICHUAN_MODEL_ROOTS"
        )
        for root in settings.allowed_model_roots
    ]
