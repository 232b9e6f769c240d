"""multipart/form-data as it comes (RFC 7578): files in pieces that are never put together here, other fields whole."""

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from services.gateway.http.api_errors import ApiError, bad_request

_MOST_FIELDS = 64
_FIELD_BYTES = 256 * 2**10  # of all fields that are no files, together


@dataclass(frozen=True, slots=True)
class FormField:
    """A whole field."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FileStart:
    """A file begins; its bytes follow, then FileEnd."""

    name: str
    filename: str


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The file that had begun is whole."""


FormEvent = FormField | FileStart | bytes | FileEnd


async def form_events(request: Request) -> AsyncIterator[FormEvent]:
    """What the body of a request holds, one after the other.

    Raises:
        ApiError: 400 where this is no multipart form, ends before its end, or has too many fields.
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
        raise ApiError(400, "The body ends before its closing boundary.", code="invalid_form")


class _Form:
    """Turns the callbacks of the parser into events."""

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
        if self._fields > _MOST_FIELDS:
            raise bad_request("body", f"has more than {_MOST_FIELDS} fields")

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
        if self._field_bytes > _FIELD_BYTES:
            raise bad_request(self._name, f"fields that are no files are over the limit of {_FIELD_BYTES:,} bytes")
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
