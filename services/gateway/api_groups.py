"""API groups: every package of `services.gateway` with a module `routes` that defines an APIRouter named `router`."""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules

from fastapi import APIRouter

from services import gateway


def discover_routers() -> list[APIRouter]:
    """The routers of all API groups, in alphabetical order of the groups.

    Raises:
        TypeError: A group's `routes.router` is missing or is not an APIRouter.
    """
    names = [f"{gateway.__name__}.{module.name}.routes" for module in iter_modules(gateway.__path__) if module.ispkg]
    return [_router(name) for name in names if find_spec(name) is not None]


def _router(module: str) -> APIRouter:
    router = getattr(import_module(module), "router", None)
    if not isinstance(router, APIRouter):
        raise TypeError(f"{module}.router has to be a fastapi.APIRouter")
    return router
