"""Entry point of `python -m api`: serves the HTTP API until SIGTERM or SIGINT arrives."""

import logging
import socket

from api.access_log import BatchingHandler
from api.main import create_app
from api.server import Server, build_server_config
from api.settings import ApiSettings
from jobs.settings import read_settings_or_exit


def main() -> None:
    """Serve the API with the settings from the environment."""
    _configure_logging()
    settings = read_settings_or_exit(ApiSettings)
    app = create_app(settings)
    Server(build_server_config(app, settings), app).run(_open_inherited_sockets(settings))


def _open_inherited_sockets(settings: ApiSettings) -> list[socket.socket] | None:
    """Return the inherited listening socket, if any; the parent opens it so that no other process can take the port."""
    return None if settings.listen_fd is None else [socket.socket(fileno=settings.listen_fd)]


def _configure_logging() -> None:
    form = "%(asctime)s api %(levelname)s %(message)s"
    logging.basicConfig(level=logging.INFO, format=form)
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # unused, but looked up per line
    for chatty in ("uvicorn", "alembic", "python_multipart"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    requests = logging.getLogger("api.access")
    handler = BatchingHandler()
    handler.setFormatter(logging.Formatter(form))
    requests.addHandler(handler)
    requests.propagate = False


if __name__ == "__main__":
    main()
