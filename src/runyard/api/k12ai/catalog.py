"""What services there are, the form of their parameters, and what they need (spec/k12ai.md, 1.11 and 3.8)."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec

from runyard.model.framework import is_safe
from runyard.service.frameworks import Framework, Frameworks
from runyard.training.codes import Code
from runyard.training.parameters import Problem
from runyard.training.reply import Refusal

#: Bytes of a form.
MAX_SCHEMA = 4 * 1024 * 1024
_SUFFIXES = (".json", ".yaml", ".yml")


class Catalog:
    """The services of one server, as this door shows them."""

    def __init__(self, frameworks: Frameworks) -> None:
        self._frameworks = frameworks

    async def get(self, name: Any) -> Framework:
        """Raises Refusal if there is no such service."""
        found = await asyncio.to_thread(self._frameworks.get, name) if isinstance(name, str) else None
        if found is None:
            shown = repr(name)[:100]
            raise Refusal(Code.NO_SERVICE, f"there is no service {shown}: /k12ai/services has those that there are")
        return found

    async def listing(self) -> list[dict[str, Any]]:
        return [
            {
                "service_name": framework.name,
                "phases": list(framework.service.commands),
                "source": framework.source,
                "agent": framework.service.agent or None,
                "schema": bool(framework.service.schema) or "schema" in framework.hooks,
            }
            for framework in await asyncio.to_thread(self._frameworks.all)
        ]

    async def schema(self, body: bytes) -> tuple[int, str | None]:
        """The code, and the form as a JSON text. Raises Refusal."""
        raw = _object(body)
        for key in ("service_name", "service_task", "dataset_name", "network_type"):
            if key not in raw:
                raise Refusal(Code.KEY_MISSING, repr(key))
        task, network = raw["service_task"], raw["network_type"]
        if network == "" or not isinstance(network, str) or not isinstance(task, str):
            raise Refusal(Code.NOT_ALLOWED, "service_task and network_type must be texts, and not empty")
        framework = await self.get(raw["service_name"])
        asked = (raw.get("version", "0"), raw.get("levelid", 0), task, network, raw["dataset_name"])
        try:
            tree = await asyncio.to_thread(_schema, framework, task, (*asked, raw.get("dataset_info")))
        except Problem as problem:
            raise Refusal(Code.SCHEMA_FAILED, problem.text) from None
        version = str(tree.get("version", "0"))
        if version == str(raw.get("version", "0")) and version != "0":
            return Code.UP_TO_DATE, None
        return Code.SUCCESS, msgspec.json.encode({"version": version, "type": "page", **tree}).decode()

    async def memstat(self, raw: dict[str, Any]) -> dict[str, Any]:
        """What a task is expected to need. Raises Refusal."""
        if "service_name" not in raw:
            raise Refusal(Code.KEY_MISSING, "'service_name'")
        framework = await self.get(raw["service_name"])
        try:
            given = await asyncio.to_thread(framework.call, "memstat", raw.get("service_params"))
        except Problem as problem:
            raise Refusal(Code.SCHEMA_FAILED, problem.text) from None
        need = framework.service.memstat
        known = {"app_cpu_memory_usage_MB": need.cpu_MB, "app_gpu_memory_usage_MB": need.gpu_MB}
        return known | (given if isinstance(given, dict) else {})


def _object(body: bytes) -> dict[str, Any]:
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raw = None
    if not isinstance(raw, dict):
        raise Refusal(Code.NOT_JSON, body[:1000].decode("utf-8", "replace"))
    return raw


def _schema(framework: Framework, task: str, asked: tuple[Any, ...]) -> dict[str, Any]:
    """The form of one task's parameters. Blocks. Raises Refusal, Problem."""
    tree = framework.call("schema", *asked)
    if tree is None:
        tree = _read(_file(framework, task))
    if isinstance(tree, str):
        tree = _decoded(tree.encode(), ".json")
    if not isinstance(tree, dict):
        raise Problem(Code.SCHEMA_FAILED, f"the form of {framework.name} must be an object")
    return tree


def _file(framework: Framework, task: str) -> Path:
    place = Path(framework.service.schema) if framework.service.schema else None
    if place is not None and place.is_dir() and is_safe(task):
        place = next((found for suffix in _SUFFIXES if (found := place / f"{task}{suffix}").is_file()), None)
    if place is None or not place.is_file():
        raise Refusal(Code.NO_SCHEMA, f"{framework.name} has no form for {task!r}")
    return place


def _read(path: Path) -> Any:
    try:
        if os.stat(path).st_size > MAX_SCHEMA:
            raise Problem(Code.SCHEMA_FAILED, f"{path.name} has more than {MAX_SCHEMA} bytes")
        return _decoded(path.read_bytes(), path.suffix)
    except OSError as error:
        raise Refusal(Code.NO_SCHEMA, f"{path.name} can't be read: {error.strerror}") from None


def _decoded(text: bytes, suffix: str) -> Any:
    if suffix != ".json":
        import yaml

        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise Problem(Code.SCHEMA_FAILED, f"not valid YAML: {error}") from None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise Problem(Code.SCHEMA_FAILED, f"not valid JSON: {error}") from None
