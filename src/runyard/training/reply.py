"""Synchronous answers: what was asked for, or a code that says why not (spec/k12ai.md, 1.5). Pure."""

from __future__ import annotations

from typing import Any, Literal

from runyard.training.codes import Code, text_of

MessageForm = Literal["both", "text"]


class Refusal(Exception):
    """A request that is not done. `data` says what is wrong and what to do; `exception` is class name and text, where
    K12AI answers with the details of an exception."""

    def __init__(
        self, code: int, data: str | None = None, exception: tuple[str, str] | None = None, status: int = 200
    ) -> None:
        """`status` is HTTP's: handled requests have 200, whatever the code."""
        super().__init__(data or text_of(code)[0])
        self.code, self.data, self.exception, self.status = int(code), data, exception, status


def reply(code: int = Code.SUCCESS, data: Any = None, form: MessageForm = "both") -> dict[str, Any]:
    """The body of an answer. `data` is left out when there is none. With the form `text`, `message` is the text of
    `data`, as in the first releases."""
    english, chinese = text_of(code)
    body: dict[str, Any] = {"code": int(code), "descr": english, "message": {"en": english, "cn": chinese}}
    if form == "text":
        body["message"] = data if isinstance(data, str) and data else english
    if data:
        body["data"] = data
    return body


def refusal_reply(refusal: Refusal, form: MessageForm = "both") -> dict[str, Any]:
    """The body that says why a request is not done. What the server's own code looks like is nobody's business: the
    traceback is empty."""
    body = reply(refusal.code, refusal.data, form)
    if refusal.exception is not None:
        name, text = refusal.exception
        body["expand"] = {"excinfo": {"err_type": name, "err_text": text, "trackback": []}}
        body["detail"] = {"exc_type": name, "exc_text": text, "traceback": []}
    return body
