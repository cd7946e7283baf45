"""Parses a multipart/form-data body as it arrives; fields are kept in memory, and the file is passed on in chunks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from jobs.errors import InvalidRequestError

MAX_FIELD_BYTES = 256
MAX_HEADER_BYTES = 4096


@dataclass(slots=True)
class _Part:
    headers: dict[str, bytes] = field(default_factory=dict)
    name: str = ""
    is_file: bool = False
    value: bytearray = field(default_factory=bytearray)


class FormReader:
    """Parses a form chunk by chunk, and returns the chunks of the file that it contains.

    Attributes:
        fields: The text fields seen so far.
        filename: The name that the client gave its file; None until the file begins.
        complete: Whether the closing boundary has been seen.
    """

    def __init__(self, content_type: str, *, file_field: str, text_fields: frozenset[str]) -> None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            fields = ", ".join(sorted({file_field, *text_fields}))
            raise InvalidRequestError(f"send the file as multipart/form-data; the form has the fields {fields}")
        self._file_field = file_field
        self._text_fields = text_fields
        self._part = _Part()
        self._header_name = b""
        self._header_value = b""
        self._pieces: list[bytes] = []
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.complete = False
        self._parser = _create_parser(boundary, self)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Parse a chunk of the body, and yield the chunks of the file in it.

        Raises:
            InvalidRequestError: the body is not a valid form, or has unknown fields.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequestError(f"the multipart body cannot be read: {error}") from None
        pieces, self._pieces = self._pieces, []
        yield from pieces

    def on_part_begin(self) -> None:
        """Start a new, empty part."""
        self._part = _Part()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        """Collect a chunk of a header's name."""
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        """Collect a chunk of a header's value."""
        self._header_value += data[start:end]

    def on_header_end(self) -> None:
        """Store a complete header."""
        self._part.headers[self._header_name.decode("latin-1").lower()] = self._header_value
        self._header_name, self._header_value = b"", b""

    def on_headers_finished(self) -> None:
        """Determine from its headers whether the part is a field or the file."""
        disposition = self._part.headers.get("content-disposition", b"")
        _, options = parse_options_header(disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        self._part.name = name
        self._part.is_file = name == self._file_field
        if self._part.is_file:
            if self.filename is not None:
                raise InvalidRequestError("the form has more than one file; send one file per request", param=name)
            self.filename = _read_filename(options, disposition)
        elif name in self.fields:
            raise InvalidRequestError("this field appears twice; keep only one", param=name)
        elif name not in self._text_fields:
            known = ", ".join(sorted({self._file_field, *self._text_fields}))
            shown = name[:64]
            raise InvalidRequestError(f"unknown field {shown!r}; the form has the fields {known}", param=shown)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """Collect a chunk of the file's content or of a field's value."""
        if self._part.is_file:
            self._pieces.append(data[start:end])
            return
        self._part.value += data[start:end]
        if len(self._part.value) > MAX_FIELD_BYTES:
            message = f"this field is too long; shorten it to at most {MAX_FIELD_BYTES} bytes"
            raise InvalidRequestError(message, param=self._part.name)

    def on_part_end(self) -> None:
        """Store the value of a complete field."""
        if not self._part.is_file:
            self.fields[self._part.name] = self._part.value.decode("utf-8", "replace")

    def on_end(self) -> None:
        """Record that the closing boundary has arrived."""
        self.complete = True


def _read_filename(options: Mapping[bytes, bytes], disposition: bytes) -> str:
    """Return the file's name as the client sent it.

    RFC 7578 forbids `filename*=UTF-8''...` in forms, so it is used only if there is no plain `filename`.
    """
    if b"filename" in options:
        return options[b"filename"].decode("utf-8", "replace")
    header = Message()
    header["Content-Disposition"] = disposition.decode("latin-1")
    return header.get_filename("")


def _create_parser(boundary: bytes, reader: FormReader) -> MultipartParser:
    try:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": reader.on_part_begin,
                "on_header_field": reader.on_header_field,
                "on_header_value": reader.on_header_value,
                "on_header_end": reader.on_header_end,
                "on_headers_finished": reader.on_headers_finished,
                "on_part_data": reader.on_part_data,
                "on_part_end": reader.on_part_end,
                "on_end": reader.on_end,
            },
            max_header_size=MAX_HEADER_BYTES,
        )
    except FormParserError as error:
        raise InvalidRequestError(f"the multipart body cannot be read: {error}") from None
