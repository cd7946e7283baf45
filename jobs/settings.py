"""How the service is deployed: one frozen object a process, read from the environment when the process starts."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


class Settings(BaseSettings):
    """Where things are kept, and the clocks of the queue. Every field has an embedded default."""

    model_config = SettingsConfigDict(env_prefix="BAICHUAN_", frozen=True, extra="ignore", populate_by_name=True)

    home: Path = Field(Path(".baichuan"), description="State of the embedded deployment")
    database_url: str = Field("", validation_alias="DATABASE_URL", description="SQLite in `home` by default")
    redis_url: str = Field("", validation_alias="REDIS_URL", description="The embedded server by default")
    artifact_root: str = Field("", validation_alias="ARTIFACT_ROOT", description="A directory or s3://bucket/prefix")
    model_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Directories, separated by ':', under which checkpoints may be registered"
    )

    lease_seconds: float = Field(30, gt=0, description="A running attempt is lost after this long without renewal")
    heartbeat_seconds: float = Field(5, gt=0, description="How often a worker renews its leases")
    pickup_seconds: float = Field(15, gt=0, description="A dispatched attempt must be claimed within this time")
    poll_seconds: float = Field(0.5, gt=0, description="How long the dispatcher sleeps when nobody wakes it")
    backoff_seconds: float = Field(5, ge=0, description="Wait before the second attempt; doubles each time")
    backoff_limit_seconds: float = Field(300, ge=0, description="Longest wait between two attempts")
    free_space_reserve_bytes: int = Field(256 * 2**20, ge=0, description="Left free on the artifact store's disk")

    @field_validator("model_roots", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(Path(part) for part in value.split(":") if part) if isinstance(value, str) else value

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database_url or f"sqlite:///{self.home.resolve() / 'jobs.sqlite3'}"

    @property
    def redis(self) -> str:
        """The Redis URL in force; that of the embedded server stands in a file which `baichuan up` writes."""
        if self.redis_url:
            return self.redis_url
        written = self.home / "redis" / "url"
        return written.read_text().strip() if written.exists() else "redis://127.0.0.1:6379/0"

    @property
    def artifacts(self) -> str:
        """The artifact store in force: a directory, or a URL of an object store."""
        return self.artifact_root or str(self.home.resolve() / "artifacts")

    @property
    def allowed_model_roots(self) -> tuple[Path, ...]:
        """The directories under which checkpoints may be registered, resolved."""
        return tuple(root.resolve() for root in self.model_roots or (self.home / "models",))
