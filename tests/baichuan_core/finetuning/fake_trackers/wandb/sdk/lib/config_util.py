"""The error that the Trainer's callback imports."""


class ConfigError(Exception):
    """A value that cannot be changed."""
