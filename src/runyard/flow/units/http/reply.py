"""`httpserver_sync_reply`: what reaches it is the answer to the session's request (modelbox.md 6.2)."""

from __future__ import annotations

from runyard.flow.configuration import Configuration
from runyard.flow.status import FlowError, Status, StatusCode
from runyard.flow.unit import DataContext, FlowUnit
from runyard.flow.unit_library import Option, Port, UnitInfo
from runyard.flow.units.http.receive import REPLY, Pending

CONTENT_TYPES = {
    "htm": "text/html",
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "json": "application/json",
    "png": "image/png",
    "gif": "image/gif",
    "jpeg": "image/jpeg",
    "svg": "image/svg+xml",
    "tar": "application/x-tar",
    "txt": "text/plain;charset=utf-8",
    "ico": "application/octet-stream",
    "xml": "text/xml",
    "mpeg": "video/mpeg",
    "mp3": "audio/mpeg",
}


class HttpSyncReply(FlowUnit):
    """Replies 200 with the session's first buffer; a later buffer is ignored."""

    info = UnitInfo(
        name="httpserver_sync_reply",
        description="Answers the request that httpserver_sync_receive took, with status 200.",
        group="Output",
        inputs=(Port("in_reply_info"),),
        options=(Option("content_type", default="txt", description="of the reply", values=tuple(CONTENT_TYPES)),),
        flow_stream=True,
        entry=f"{__name__}:HttpSyncReply",
    )

    def __init__(self) -> None:
        self._kind = b""

    def open(self, config: Configuration) -> Status | None:
        name = config.get_string("content_type", "txt")
        if name not in CONTENT_TYPES:
            message = f"unsupport content type {name}"
            return Status(StatusCode.STATUS_BADCONF, f"{message} (known: {', '.join(CONTENT_TYPES)})")
        self._kind = CONTENT_TYPES[name].encode()
        return None

    def process(self, data_ctx: DataContext) -> Status | None:
        pending = data_ctx.get_session_context().get_private(REPLY)
        if not isinstance(pending, Pending):
            return Status(
                StatusCode.STATUS_FAULT, "http reply handler is nullptr. (no httpserver_sync_receive upstream)"
            )
        if buffers := data_ctx.input("in_reply_info"):
            try:
                body = buffers[0].as_bytes()
            except TypeError as error:
                raise FlowError(StatusCode.STATUS_INVALID, f"the reply is neither bytes nor text: {error}") from None
            pending.reply(body, self._kind)
        return None
