"""Streaming multipart/form-data (RFC 7578): files arrive in pieces, other fields as a whole."""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from services.gateway.http.api_errors import ApiError, bad_request

_MAX_FIELDS = 64
_MAX_FIELD_BYTES = 256 * 2**10  # of all fields but files together


@dataclass(frozen=True, slots=True)
class FormField:
    """A field that is not a file."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FileStart:
    """Start of a file; its bytes follow, then FileEnd."""

    name: str
    filename: str


@dataclass(frozen=True, slots=True)
class FileEnd:
    """End of the current file."""


FormEvent = FormField | FileStart | bytes | FileEnd


async def form_events(request: Request) -> AsyncIterator[FormEvent]:
    """The parts of a request body as they arrive.

    Raises:
        ApiError: 400 if the body is not a multipart form, is truncated, or has too many fields.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise ApiError(400, "The body has to be multipart/form-data with a boundary.", code="invalid_form")
    form = _Form(boundary)
    try:
        async for chunk in request.stream():
            form.write(chunk)
            while form.events:
                yield form.events.popleft()
    except FormParserError as error:
        raise ApiError(400, "The body is not valid multipart/form-data.", code="invalid_form") from error
    if not form.complete:
        raise ApiError(400, "The body ends before the closing boundary.", code="invalid_form")


class _Form:
    """Turns the parser's callbacks into events."""

    def __init__(self, boundary: bytes) -> None:
        self.events: deque[FormEvent] = deque()
        self.complete = False
        self._header = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._is_file = False
        self._name = ""
        self._field = bytearray()
        self._fields = self._field_bytes = 0
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begin,
                "on_header_begin": self._header_begin,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._part_data,
                "on_part_end": self._part_end,
                "on_end": self._end,
            },
        )

    def write(self, data: bytes) -> None:
        self._parser.write(data)

    def _part_begin(self) -> None:
        self._headers = {}
        self._fields += 1
        if self._fields > _MAX_FIELDS:
            raise bad_request("body", f"has more than {_MAX_FIELDS} fields")

    def _header_begin(self) -> None:
        self._header = self._value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name")
        if not name:
            raise ApiError(400, "A field of the form has no name.", code="invalid_form")
        self._name = name.decode(errors="replace")
        self._is_file = b"filename" in options
        if self._is_file:
            self.events.append(FileStart(self._name, options[b"filename"].decode(errors="replace")))
        self._field = bytearray()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self.events.append(data[start:end])
            return
        self._field_bytes += end - start
        if self._field_bytes > _MAX_FIELD_BYTES:
            raise bad_request(self._name, f"fields other than files are over the limit of {_MAX_FIELD_BYTES:,} bytes")
        self._field += data[start:end]

    def _part_end(self) -> None:
        if self._is_file:
            self.events.append(FileEnd())
            return
        try:
            self.events.append(FormField(self._name, self._field.decode()))
        except UnicodeDecodeError as error:
            raise bad_request(self._name, "is not UTF-8") from error

    def _end(self) -> None:
        self.complete = True
