"""The settings of the API process: those that all processes share, and those of the HTTP API."""

from pydantic import Field

from jobs.settings import Settings


class ApiSettings(Settings):
    """Address, limits and timeouts of the HTTP API."""

    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on")
    listen_fd: int | None = Field(None, ge=3, description="Inherited listening socket to use instead of a new one")
    max_body_bytes: int = Field(16 * 2**20, ge=1, description="Maximum size of a JSON body; put larger input in a file")
    max_upload_bytes: int = Field(2 * 2**30, ge=1, description="Maximum size of an uploaded file")
    max_header_bytes: int = Field(32 * 2**10, ge=1024, description="Maximum size of a request's header section")
    receive_seconds: float = Field(
        20, gt=0, description="Time limit for a request's header; also the interval for measuring its body's rate"
    )
    min_body_bytes_per_second: int = Field(256, ge=1, description="Minimum rate of a body; slower requests are cut off")
    stream_poll_seconds: float = Field(0.25, gt=0, description="How often event streams check for new events")
    stream_idle_seconds: float = Field(15, gt=0, description="How often a silent event stream sends a comment")
    chats_per_project: int = Field(
        128, ge=1, description="Maximum number of chats that one process answers for a project at the same time"
    )
    session_seconds: float = Field(7 * 24 * 3600, gt=0, description="How long a browser stays signed in")
    shutdown_seconds: int = Field(5, ge=0, description="How long open requests may still take when the server stops")
