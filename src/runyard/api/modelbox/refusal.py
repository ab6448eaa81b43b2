"""How this door says no: the codes and their texts (spec/modelbox.md, 1.5). Spelling mistakes are the original's."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from runyard.model.errors import RunyardError


class Code(StrEnum):
    """`error_code` of a refusal."""

    INTERNAL = "MODELBOX_001"
    NO_JOB = "MODELBOX_002"
    NO_ID = "MODELBOX_003"
    NO_GRAPH = "MODELBOX_004"
    EXISTS = "MODELBOX_005"
    COMMAND = "MODELBOX_006"
    BAD_ID = "MODELBOX_007"
    BAD_GRAPH = "MODELBOX_008"


TEXTS = {
    Code.INTERNAL: "server internal error",
    Code.NO_JOB: "request invalid, no such job",
    Code.NO_ID: "request invalid, can not get jobId",
    Code.NO_GRAPH: "request invalid, can not get graph",
    Code.EXISTS: "request invalid, job already exist",
    Code.COMMAND: "request invalid, invalid command",
    Code.BAD_ID: (
        "job id contain invalid characters or contains more than 64 characters, please rename job with valid charaters."
    ),
    Code.BAD_GRAPH: "request invalid, job config is invalid.",
}

#: Characters of a detail that are shown.
MAX_DETAIL = 16 * 1024


class Refusal(Exception):
    """An answer with an error code. `detail` is added to the code's text."""

    def __init__(self, code: Code, detail: str = "", status: int = 400) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.status = status

    @property
    def message(self) -> str:
        return f"{TEXTS[self.code]}, {self.detail[:MAX_DETAIL]}" if self.detail else TEXTS[self.code]

    @property
    def body(self) -> bytes:
        return msgspec.json.encode({"error_code": self.code, "error_msg": self.message})


def refusal_of(error: RunyardError) -> Refusal:
    """What the rest of the server refuses, in this door's words."""
    return Refusal(Code.INTERNAL if error.status >= 500 else Code.COMMAND, error.detail, error.status)
