"""`python -m api`: serve until SIGTERM or SIGINT."""

import gc
import logging
import socket

import uvicorn
from fastapi import FastAPI

from api.access_log import BatchingHandler
from api.main import create_app
from api.settings import ApiSettings
from jobs.settings import read_settings_or_exit

log = logging.getLogger("api")


class Server(uvicorn.Server):
    """Uvicorn, tuned once everything is loaded, and telling endless answers to end when it stops."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start; then spare the garbage collector what stays (it halves the 99th percentile at least)."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(5000, 20, 20)
        log.info("ready on http://%s:%s", self.config.host, self.config.port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; clients of event streams come back with Last-Event-ID."""
        self._app.state.service.closing.set()
        await super().shutdown(sockets)


def main() -> None:
    """Serve the deployment that the environment describes."""
    _configure_logging()
    settings = read_settings_or_exit(ApiSettings)
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
    )
    Server(config, app).run(_inherited_sockets(settings))


def _inherited_sockets(settings: ApiSettings) -> list[socket.socket] | None:
    """The socket that the parent process listens on for us: no other process can take its port meanwhile."""
    return None if settings.listen_fd is None else [socket.socket(fileno=settings.listen_fd)]


def _configure_logging() -> None:
    form = "%(asctime)s api %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=form)
    for chatty in ("uvicorn", "alembic", "python_multipart"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    requests = logging.getLogger("api.access")
    handler = BatchingHandler()
    handler.setFormatter(logging.Formatter(form))
    requests.addHandler(handler)
    requests.propagate = False


if __name__ == "__main__":
    main()
