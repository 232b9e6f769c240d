"""Uploads in malformed forms."""

import pytest

from services.shared.storage.client import ObjectStore
from tests.integration.gateway.conftest import Gateway
from tests.integration.gateway.media.conftest import error_of, stored_folders

FORMS: dict[str, tuple[bytes, str]] = {
    "no file": (b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--b--\r\n', "x"),
    "an empty form": (b"--b--\r\n", "file"),
    "a file that is a field": (b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n1\r\n--b--\r\n', "file"),
    "another file": (b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n1\r\n--b--\r\n', "f"),
    "no name": (b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--\r\n", ""),
    "no end": (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF', ""),
    "no form": (b"RIFF", ""),
}


@pytest.mark.parametrize("case", FORMS)
async def test_a_broken_form_is_a_400(gateway: Gateway, store: ObjectStore, case: str) -> None:
    body, param = FORMS[case]
    headers = {"content-type": "multipart/form-data; boundary=b"}
    response = await gateway.http.post("/v1/media", content=body, headers=headers)
    assert response.status_code == 400
    assert error_of(response)["param"] == (param or None)
    assert stored_folders(store) == []


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", "text/plain"])
async def test_a_body_that_is_not_a_form_is_a_400(gateway: Gateway, kind: str) -> None:
    response = await gateway.http.post("/v1/media", content=b"{}", headers={"content-type": kind})
    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_form"
