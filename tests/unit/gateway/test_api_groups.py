"""API groups are found by their folders; middleware learns about a route from its markers."""

import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter

from services import gateway
from services.gateway.api_groups import discover_routers
from services.gateway.app import create_app
from services.gateway.http.route_markers import Marker, accepts_media, accepts_upload, marked_paths, paths, public
from services.gateway.settings import GatewaySettings

AddGroup = Callable[[str], None]
GROUP = """
from fastapi import APIRouter
from services.gateway.http.route_markers import public

router = APIRouter()

@router.get("/ping")
@public
async def ping() -> str:
    return "pong"

@router.get("/private/{name}")
async def private(name: str) -> str:
    return name
"""


@pytest.fixture
def add_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AddGroup:
    """Adds a folder `extra` with the given `routes.py` to `services.gateway`, for one test."""

    def add(routes: str) -> None:
        folder = tmp_path / "extra"
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "routes.py").write_text(routes)
        monkeypatch.setattr(gateway, "__path__", [*gateway.__path__, str(tmp_path)])
        for name in ("services.gateway.extra", "services.gateway.extra.routes"):
            monkeypatch.delitem(sys.modules, name, raising=False)

    return add


def test_middleware_knows_the_paths_of_every_group() -> None:
    routers = discover_routers()
    assert marked_paths(routers, Marker.PUBLIC) == {"/healthz", "/readyz", "/metrics"}
    assert marked_paths(routers, Marker.ACCEPTS_MEDIA) == {"/v1/chat/completions", "/v1/audio/transcriptions"}
    assert marked_paths(routers, Marker.ACCEPTS_UPLOAD) == {"/v1/media", "/v1/jobs"}
    assert {"/v1/models/{model}", "/v1/jobs/{job_id}/events", "/v1/media/uploads/{upload_id}"} <= set(paths(routers))


async def test_a_group_is_added_by_its_folder_only(add_group: AddGroup, tmp_path: Path) -> None:
    add_group(GROUP)
    app = create_app(GatewaySettings(home=tmp_path))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        assert (await client.get("/ping")).json() == "pong"
        assert (await client.get("/private/x")).status_code == 401


@pytest.mark.parametrize("routes", ["", "router = None"])
def test_a_group_without_a_router_is_a_mistake(add_group: AddGroup, routes: str) -> None:
    add_group(routes)
    with pytest.raises(TypeError, match=r"services\.gateway\.extra\.routes\.router"):
        discover_routers()


def test_a_marked_route_with_path_parameters_is_a_mistake() -> None:
    router = APIRouter()

    @router.post("/files/{name}")
    @accepts_media
    async def upload(name: str) -> None: ...

    with pytest.raises(ValueError, match=r"/files/\{name\}"):
        marked_paths([router], Marker.ACCEPTS_MEDIA)
    assert marked_paths([router], Marker.ACCEPTS_UPLOAD) == frozenset()


def test_markers_can_be_combined() -> None:
    router = APIRouter(prefix="/v1")

    @router.post("/both")
    @accepts_upload
    @public
    async def both() -> None: ...

    for marker in (Marker.ACCEPTS_UPLOAD, Marker.PUBLIC):
        assert marked_paths([router], marker) == {"/v1/both"}
