"""The errors of this package."""


class FileError(ValueError):
    """A file or directory cannot be used; the message names the file, the field and the remedy."""


class UnsupportedFileError(FileError):
    """A file is intact, but its format or method is not supported."""
