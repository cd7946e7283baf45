"""The errors of this package."""


class FileError(ValueError):
    """A file or directory cannot be used; the message names the file, the field and the remedy."""


class UnsupportedFileError(FileError):
    """A file is intact, but of a kind that nothing here reads."""
