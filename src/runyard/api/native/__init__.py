"""The native door: `/api/v1`, the health routes, and the metrics."""

from __future__ import annotations

from litestar import Router

from runyard.api.native.events import EVENT_ROUTES
from runyard.api.native.flows import FLOW_ROUTES
from runyard.api.native.jobs import JOB_ROUTES
from runyard.api.native.logs import LOG_ROUTES
from runyard.api.native.messages import MESSAGE_ROUTES
from runyard.api.native.nodes import NODE_ROUTES
from runyard.api.native.projects import PROJECT_ROUTES
from runyard.api.native.schedules import SCHEDULE_ROUTES
from runyard.api.native.usage import USAGE_ROUTES


def native_router() -> Router:
    """A new router of the native door."""
    return Router(
        path="/api/v1",
        route_handlers=[
            *JOB_ROUTES,
            *LOG_ROUTES,
            *EVENT_ROUTES,
            *MESSAGE_ROUTES,
            *NODE_ROUTES,
            *USAGE_ROUTES,
            *SCHEDULE_ROUTES,
            *FLOW_ROUTES,
            *PROJECT_ROUTES,
        ],
    )
