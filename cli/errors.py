"""The only error that commands raise: a readable line for stderr and an exit code."""

from cli.exit_codes import ExitCode


class CommandError(Exception):
    """An error that ends a command; its message tells the user what to change."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code
