"""The Docker Engine, by its API on a Unix socket (or plain TCP). Podman's service speaks the same.

Nothing is connected before somebody asks. A daemon that is away is asked again after `RETRY` seconds.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from runyard.model.errors import NotFound, Unavailable
from runyard.telemetry.container import NAME, Container, CpuTimes, cores, cpu_percent, cpu_times, memory, top_pids
from runyard.telemetry.section import Degraded

if TYPE_CHECKING:
    import httpx2

SOCKET = "unix:///var/run/docker.sock"
#: Seconds until a daemon that was away is asked again (spec/k12ai.md, 3.3).
RETRY = 30.0
#: Containers asked at once, and at most.
AT_ONCE, MOST = 16, 1000
#: Seconds for one question: Docker takes two to measure a container for the first time.
TIMEOUT = 4.0
_REF = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}")


class Docker:
    """All methods are for the event loop's thread."""

    def __init__(self, address: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        """`address`: `unix:///path`, `tcp://host:port`, or `none`; empty means DOCKER_HOST, else Docker's usual one."""
        self.address = address or os.environ.get("DOCKER_HOST") or SOCKET
        self._clock = clock
        self._client: httpx2.AsyncClient | None = None
        self._missing: tuple[float, str] | None = None
        self._known: dict[str, Container] = {}
        self._times: dict[str, CpuTimes] = {}

    async def containers(self, gpu_pids: bool = False) -> list[Container]:
        """The running containers with K12AI's label. `gpu_pids`: learn the pids of their processes, too.

        One that vanishes meanwhile is left out; one that does not answer in time is as it was before. Raises Degraded
        without a daemon.
        """
        wanted = msgspec.json.encode({"label": [NAME]}).decode()
        listed = await self._get("/containers/json", filters=wanted)
        if not isinstance(listed, list):
            raise Degraded(f"{self.address} does not answer like a Docker Engine")
        gate = asyncio.Semaphore(AT_ONCE)
        entries = [entry for entry in listed[:MOST] if isinstance(entry, dict) and isinstance(entry.get("Id"), str)]
        found = await asyncio.gather(*(self._container(entry, gpu_pids, gate) for entry in entries))
        there = {container.id: container for container in found if container is not None}
        self._known = there
        self._times = {key: times for key, times in self._times.items() if key in there}
        return list(there.values())

    async def find(self, ref: str) -> Container:
        """The container with that id, unique prefix of it, or name, if it has K12AI's label. Raises NotFound."""
        if not _REF.fullmatch(ref):
            raise NotFound(f"there is no container {ref!r}")
        try:
            found = await self._get(f"/containers/{ref}/json")
        except Degraded as error:
            raise NotFound(f"there is no container {ref!r}: {error}") from None
        labels = _labels(found)
        if NAME not in labels:
            raise NotFound(f"the container {ref!r} does not have the label {NAME}")
        return Container(id=found["Id"], labels=labels, pid=_state(found).get("Pid", 0))

    async def stop(self, container: str, grace: int = 10) -> None:
        """Ends a container: SIGTERM, and SIGKILL after `grace` seconds. One that has ended stays so.

        Raises NotFound, Unavailable.
        """
        import httpx2

        client = await self._connected()
        try:
            answer = await client.post(f"/containers/{container}/stop", params={"t": grace}, timeout=grace + 20.0)
        except httpx2.HTTPError as error:
            raise Unavailable(f"the Docker Engine at {self.address} does not answer: {error}") from None
        if answer.status_code == 404:
            raise NotFound(f"there is no container {container!r}")
        if answer.status_code not in (204, 304):
            raise Unavailable(f"the Docker Engine does not stop {container}: {_message(answer)}")

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def _container(self, entry: dict[str, Any], gpu_pids: bool, gate: asyncio.Semaphore) -> Container | None:
        key: str = entry["Id"]
        known = self._known.get(key)
        async with gate:
            try:
                async with asyncio.timeout(TIMEOUT):
                    if known is None:
                        state = _state(await self._get(f"/containers/{key}/json"))
                        pid, started = state.get("Pid"), state.get("StartedAt")
                        known = Container(
                            id=key,
                            labels=_labels({"Config": {"Labels": entry.get("Labels")}}),
                            pid=pid if isinstance(pid, int) else 0,
                            started_at=started if isinstance(started, str) else "",
                        )
                    before = self._times.get(key)
                    # With figures of ours to compare with, Docker need not wait for a second look of its own.
                    one_shot = "true" if before is not None else "false"
                    stats = await self._get(f"/containers/{key}/stats", stream="false", **{"one-shot": one_shot})
                    top: Any = None
                    if gpu_pids:
                        top = await self._get(f"/containers/{key}/top", ps_args="-eo pid")
            except TimeoutError:
                return known
            except (NotFound, Degraded):
                return None
        now = cpu_times(stats.get("cpu_stats"))
        if now is not None:
            self._times[key] = now
        limit, used = memory(stats)
        percent = cpu_percent(before or cpu_times(stats.get("precpu_stats")), now, cores(stats))
        return msgspec.structs.replace(
            known, cpu_percent=percent, memory_total=limit, memory_used=used, pids=top_pids(top)
        )

    async def _get(self, path: str, **query: str) -> Any:
        """The document at `path`. Raises NotFound, Degraded."""
        import httpx2

        if self._missing is not None and self._clock() - self._missing[0] < RETRY:
            raise Degraded(self._missing[1])
        client = await self._connected()
        try:
            answer = await client.get(path, params=query)
        except httpx2.ConnectError as error:
            raise self._away(f"no Docker Engine answers at {self.address}: {error}") from None
        except httpx2.HTTPError as error:
            raise Degraded(f"the Docker Engine at {self.address}: {type(error).__name__} {error}".rstrip()) from None
        if answer.status_code in (404, 409):
            raise NotFound(_message(answer))
        if answer.status_code != 200:
            raise Degraded(f"the Docker Engine says {answer.status_code} to {path}: {_message(answer)}")
        try:
            return msgspec.json.decode(answer.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Degraded(f"{self.address} does not answer like a Docker Engine") from None

    async def _connected(self) -> httpx2.AsyncClient:
        """Raises Degraded if there is no such socket."""
        if self._client is not None:
            return self._client
        scheme, _, place = self.address.partition("://")
        if scheme == "unix":
            # Before httpx2 is imported, which takes half a second: most hosts have no Docker.
            if not os.path.exists(place):
                raise self._away(f"there is no Docker Engine on this host (no {place})")
        elif self.address == "none":
            raise self._away("[telemetry] docker is none")
        elif scheme not in ("tcp", "http") or not place:
            raise self._away(f"a Docker Engine at {self.address!r} can't be asked: unix:///path or tcp://host:port can")
        library = await asyncio.to_thread(importlib.import_module, "httpx2")
        if self._client is None:
            transport = library.AsyncHTTPTransport(uds=place if scheme == "unix" else None)
            base = "http://docker" if scheme == "unix" else f"http://{place}"
            self._client = library.AsyncClient(transport=transport, base_url=base, timeout=TIMEOUT)
        client: httpx2.AsyncClient = self._client
        return client

    def _away(self, reason: str) -> Degraded:
        self._missing = (self._clock(), reason)
        return Degraded(reason)


def _labels(document: Any) -> dict[str, str]:
    config = document.get("Config") if isinstance(document, dict) else None
    labels = config.get("Labels") if isinstance(config, dict) else None
    return {key: str(value) for key, value in labels.items()} if isinstance(labels, dict) else {}


def _state(document: Any) -> dict[str, Any]:
    state = document.get("State") if isinstance(document, dict) else None
    return state if isinstance(state, dict) else {}


def _message(answer: httpx2.Response) -> str:
    try:
        return str(msgspec.json.decode(answer.content)["message"])[:500]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError):
        return answer.text[:200]
