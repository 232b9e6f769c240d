"""Markers that a route carries for the middleware, which runs before a request is routed.

@router.post("/chat/completions")
@accepts_media
async def create_chat_completion(...): ...
"""

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.routing import APIRoute

EndpointT = TypeVar("EndpointT", bound=Callable[..., Any])

_ATTRIBUTE = "__lyra_markers__"


class Marker(Enum):
    """A property of a route that middleware acts on."""

    PUBLIC = "no API key needed"
    ACCEPTS_MEDIA = "its body may carry media, up to LYRA_MAX_BODY_BYTES"
    ACCEPTS_UPLOAD = "streams a file of a multipart form to the object store, up to LYRA_MAX_MEDIA_BYTES"


def public(endpoint: EndpointT) -> EndpointT:
    """Marks an endpoint that needs no API key."""
    return _mark(endpoint, Marker.PUBLIC)


def accepts_media(endpoint: EndpointT) -> EndpointT:
    """Marks an endpoint whose body may carry media (base64 in JSON, or a form) and is read into memory."""
    return _mark(endpoint, Marker.ACCEPTS_MEDIA)


def accepts_upload(endpoint: EndpointT) -> EndpointT:
    """Marks an endpoint that streams a file of a multipart form to the object store."""
    return _mark(endpoint, Marker.ACCEPTS_UPLOAD)


def paths(routers: Iterable[APIRouter]) -> list[str]:
    """Path templates of all routes, in the order in which they match."""
    return list(dict.fromkeys(route.path for route in _routes(routers)))


def marked_paths(routers: Iterable[APIRouter], marker: Marker) -> frozenset[str]:
    """Paths of the routes that carry `marker`.

    Raises:
        ValueError: One of them has path parameters; middleware compares whole paths.
    """
    marked = frozenset(route.path for route in _routes(routers) if marker in _markers(route.endpoint))
    if templates := sorted(path for path in marked if "{" in path):
        raise ValueError(f"{templates[0]}: a marked route must not have path parameters")
    return marked


def _routes(routers: Iterable[APIRouter]) -> Iterable[APIRoute]:
    return (route for router in routers for route in router.routes if isinstance(route, APIRoute))


def _markers(endpoint: Callable[..., Any]) -> frozenset[Marker]:
    markers: frozenset[Marker] = getattr(endpoint, _ATTRIBUTE, frozenset())
    return markers


def _mark(endpoint: EndpointT, marker: Marker) -> EndpointT:
    setattr(endpoint, _ATTRIBUTE, _markers(endpoint) | {marker})
    return endpoint
