"""The application: all front doors on one port."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from litestar import Litestar
from litestar.datastructures import State
from litestar.middleware import DefineMiddleware
from litestar.types import ASGIApp

from runyard.api.access import Credentials
from runyard.api.context import Context
from runyard.api.flux.door import FluxDoor
from runyard.api.flux.submitter import Submitter
from runyard.api.gate import Gate, Shape
from runyard.api.health import HEALTH_ROUTES
from runyard.api.k12ai import door as k12ai_door
from runyard.api.meproc.door import MeprocDoor
from runyard.api.modelbox import door as modelbox_door
from runyard.api.native import native_router
from runyard.api.openapi import openapi_route
from runyard.api.pages.site import Site
from runyard.api.problem import EXCEPTION_HANDLERS
from runyard.api.tango.door import TangoDoor
from runyard.auth.origin import OriginRules
from runyard.model.framework import Service
from runyard.settings import Doors


def create_app(
    context: Context, rules: OriginRules, max_body: int, doors: Doors, services: Mapping[str, Service], folder: Path
) -> ASGIApp:
    """The ASGI application that serves `context`. Bodies larger than `max_body` bytes are refused. `services` are those
    of the K12AI door, `folder` is the server's own."""
    auth = context.auth
    app = Litestar(
        route_handlers=[native_router(), *HEALTH_ROUTES, openapi_route, MeprocDoor(context, doors.meproc).router()],
        exception_handlers=EXCEPTION_HANDLERS,
        middleware=[DefineMiddleware(Credentials, auth=auth)] if auth is not None and auth.enabled else [],
        openapi_config=None,
        state=State({"context": context}),
        # The gate before it counts the same bytes, and answers in our words.
        request_max_body_size=None,
        logging_config=None,
    )
    submitter = Submitter(context, doors.flux)
    site = Site(context, doors.flux, submitter)
    app.register(site.router())
    app.register(FluxDoor(context, doors.flux, submitter, site).router())
    shapes: dict[str, Shape] = {}
    if doors.modelbox.enabled:
        modelbox = modelbox_door.ModelboxDoor(context, doors.modelbox)
        app.register(modelbox.router())
        context.at_start.append(modelbox.load)
        shapes[modelbox_door.PATH] = modelbox_door.shape
    app.register(TangoDoor(context, doors.tango).router())
    projects = Path(doors.k12ai.cache_dir).absolute() if doors.k12ai.cache_dir else folder / "k12ai"
    app.register(k12ai_door.K12aiDoor(context, doors.k12ai, services, projects).router())
    shapes[k12ai_door.PATH] = k12ai_door.shape
    return Gate(app, rules, max_body, shapes)
