"""Settings of the API process: those of the service, and those that only HTTP needs."""

from pydantic import Field

from jobs.settings import Settings


class ApiSettings(Settings):
    """Address, limits and timeouts of the HTTP API."""

    host: str = Field("127.0.0.1", description="Address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on")
    listen_fd: int | None = Field(None, ge=3, description="An open listening socket to serve on instead, if inherited")
    max_body_bytes: int = Field(16 * 2**20, ge=1, description="Largest JSON body; more belongs into an uploaded file")
    max_upload_bytes: int = Field(2 * 2**30, ge=1, description="Largest uploaded file")
    max_header_bytes: int = Field(32 * 2**10, ge=1024, description="Largest header section of a request")
    receive_seconds: float = Field(
        20, gt=0, description="A request's header must arrive within this time; its body's pace is measured over it"
    )
    min_body_bytes_per_second: int = Field(256, ge=1, description="A body that arrives more slowly is cut off")
    stream_poll_seconds: float = Field(0.25, gt=0, description="How often event streams look for news")
    stream_idle_seconds: float = Field(15, gt=0, description="A silent event stream sends a comment this often")
    chats_per_project: int = Field(
        128, ge=1, description="Most chats that one process answers for a project at the same time"
    )
    session_seconds: float = Field(7 * 24 * 3600, gt=0, description="How long a browser stays signed in")
    shutdown_seconds: int = Field(5, ge=0, description="How long open requests may take when the server stops")
