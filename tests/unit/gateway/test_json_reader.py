import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.http.api_errors import ApiError
from services.gateway.http.json_reader import MAX_KEYS, MAX_VALUES, RUN_BYTES, JsonReader

LIMIT = 100_000
MEDIA = base64.b64encode(bytes(range(256)) * 40).decode()


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


def read(data: bytes, size: int = 10_000, limit: int = LIMIT) -> Any:
    reader = JsonReader(limit)
    for piece in pieces(data, size):
        reader.feed(piece)
    return reader.parse()


def refused(data: bytes, **options: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(data, **options)
    return caught.value


# Long base64-like texts, with everything that may be around and in them.
_texts = st.lists(
    st.sampled_from(
        [MEDIA, "A" * RUN_BYTES, "A" * (RUN_BYTES - 1), "\\", '"', "/", "é", "\n", "a b", "\\u0041", "𝄞", ""]
    ),
    max_size=6,
).map("".join)
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4),
    max_leaves=8,
)


@given(value=_values, size=st.sampled_from([1, 7, 1000, 1024, 10**6]), ascii_only=st.booleans(), slashes=st.booleans())
def test_chunks_of_any_size_give_the_same_value(value: Any, size: int, ascii_only: bool, slashes: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    if slashes:
        text = text.replace("/", "\\/")  # as PHP writes it
    assert read(text.encode(), size, limit=10**6) == value


def test_base64_media_do_not_count_towards_the_json_limit_and_texts_do() -> None:
    media = [{"data": MEDIA}, {"url": f"data:image/png;base64,{MEDIA * 20}"}]
    assert read(json.dumps(media).encode(), limit=1024) == media
    assert refused(json.dumps("with blanks " * 100).encode(), limit=1024).status_code == 413


@pytest.mark.parametrize("data", [b"[" + b"[]," * 50_000, b"[" + b"0," * 60_000, b'{"a":' * 30_000, b" " * 100_001])
def test_a_body_over_the_limit_is_refused_before_it_is_complete(data: bytes) -> None:
    reader, taken = JsonReader(LIMIT), 0

    def send_all() -> None:
        nonlocal taken
        for piece in pieces(data * 50, 10_000):
            reader.feed(piece)
            taken += len(piece)

    with pytest.raises(ApiError) as caught:
        send_all()
    assert caught.value.status_code == 413
    assert taken == LIMIT


BAD: dict[str, bytes] = {
    "nothing": b" ",
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": [-Infinity]}',
    "a float that is too large": b'{"a": 1e400}',
    "an int that is too large": b"9" * 1000 + b"." + b"9" * 20 + b"e999",
    "an int of many digits": b"9" * 1023 + b" ",
    "digits without end": b"9" * 90_000,
    "digits between others": b"[1, " + b"1" * 5000 + b", 2]",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "Latin-1": b'{"a": "\xe9"}',
    "a surrogate by bytes": b'{"a": "\xed\xa0\x80"}',
    "half a surrogate pair": b'{"a": ["\\ud800"]}',
    "half a pair in a key": b'{"\\udfff": 1}',
    "NUL": b'{"a": "x\\u0000"}',
    "NUL in a run": b'"' + b"A" * 2000 + b'\\u0000"',
    "half an escape in a run": b'"' + b"A" * 2000 + b'\\u00"',
    "a raw NUL": b'{"a": "\0"}',
    "a raw line break": b'{"a": "\n"}',
    "a key twice": b'{"a": 1, "b": {"c": 1, "c": 2}}',
    "a long key": b'{"%s": 1}' % (b"k" * 2000),
    "many keys": b"{" + b",".join(b'"%d":0' % key for key in range(MAX_KEYS + 1)) + b"}",
    "too deep": b"[" * 40_000 + b"]" * 40_000,
    "open": b'{"a": "' + b"A" * 5000,
    "a run alone": b"A" * 5000,
    "more after the end": b"{} {}",
    "single quotes": b"{'a': 1}",
    "a comment": b"{} // no",
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("size", [1, 10_000])
def test_invalid_json_is_a_400_with_the_reason(case: str, size: int) -> None:
    if case == "an int of many digits":
        assert read(BAD[case], size) == int("9" * 1023)  # no harm; the schemas say what is too large
        return
    error = refused(BAD[case], size=size)
    assert (error.status_code, error.code) == (400, "invalid_json")
    assert len(error.detail) < 300


def test_values_are_counted_and_commas_in_texts_are_not() -> None:
    table = '1,2,3,[4],{5}\\,",' * 40_000
    assert read(json.dumps([table]).encode(), limit=10**7) == [table]
    assert read(b"[" + b"0," * (MAX_VALUES - 2) + b"0]", limit=10**7)
    assert refused(b"[" + b"0," * MAX_VALUES + b"0]", limit=10**7).status_code == 413


def test_moderate_depth_and_escaped_nuls_are_accepted() -> None:
    assert read(b"[" * 64 + b"]" * 64)
    assert read(b'["\\\\u0000", "\\ud834\\udd1e"]') == ["\\u0000", "𝄞"]
