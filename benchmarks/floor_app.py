"""Baseline API: a synchronous route with one ORM insert and one Celery publish per request."""

import os
from typing import Any

import sqlalchemy as sa
from celery import Celery
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = sa.create_engine(os.environ["FLOOR_DATABASE_URL"])
celery = Celery("floor", broker=os.environ["FLOOR_REDIS_URL"])
app = FastAPI()


class Base(DeclarativeBase):
    """Declarative base."""


class FloorJob(Base):
    """One job."""

    __tablename__ = "floor_jobs"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    spec: Mapped[dict[str, Any]] = mapped_column(sa.JSON)


class Request(BaseModel):
    """A spec without validation."""

    kind: str
    model: str
    prompts: list[str]


if engine.dialect.name == "sqlite":
    with engine.connect() as connection:
        connection.execute(sa.text("PRAGMA journal_mode = WAL"))
Base.metadata.create_all(engine)


@app.post("/v1/jobs", status_code=202)
def submit(request: Request) -> dict[str, Any]:
    """Insert the job, publish the task and answer."""
    with Session(engine) as session:
        job = FloorJob(kind=request.kind, spec=request.model_dump())
        session.add(job)
        session.commit()
        job_id = job.id
    celery.send_task("run", args=[job_id], queue="floor")
    return {"id": job_id, "kind": request.kind, "state": "queued"}


@app.get("/dict")
async def as_dict() -> dict[str, Any]:
    """Return a dict of a job's size without reading anything."""
    return {"id": "job-" + "0" * 26, "object": "job", "spec": {"prompts": ["x" * 400]}, "state": "queued"}
