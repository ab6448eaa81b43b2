"""The nodes, what they have free, and which run holds what."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from runyard.core.claim import Claim, Policy, Vector
from runyard.model.ids import RunKey
from runyard.model.node import Node, Share


class Place:
    """A node's present state: its free cores and GPUs as bit masks over their positions."""

    __slots__ = ("cores", "free", "gpus", "node", "seat", "total", "up")

    def __init__(self, node: Node, slots: int) -> None:
        self.node = node
        self.total = Vector(len(node.cores), len(node.gpus), node.memory, slots)
        self.free = self.total
        self.cores = (1 << len(node.cores)) - 1
        self.gpus = (1 << len(node.gpus)) - 1
        self.up = False
        self.seat: tuple[str, int, int] | None = None

    def want(self, claim: Claim) -> Vector:
        """What `claim` takes of this node in particular."""
        return self.total if claim.exclusive else claim.each

    def takes(self, claim: Claim) -> bool:
        return self.want(claim).fits(self.free) and claim.each.fits(self.total)


def _lowest(mask: int, count: int) -> int:
    """The `count` lowest set bits of `mask`."""
    taken = 0
    for _ in range(count):
        bit = mask & -mask
        taken |= bit
        mask ^= bit
    return taken


def _named(mask: int, names: list[int]) -> list[int]:
    return [name for position, name in enumerate(names) if mask >> position & 1]


def _mask(chosen: Iterable[int], names: list[int]) -> int:
    wanted = set(chosen)
    return sum(1 << position for position, name in enumerate(names) if name in wanted)


class Release(NamedTuple):
    """What a running run will give back on one node, at the end of its planned time."""

    end: float
    run: RunKey
    node: str
    amount: Vector


class Pool:
    """All nodes of all executors. Changed only by its methods."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.places: dict[str, Place] = {}
        # Nodes that are up, by executor, then free GPUs and free cores: a fit is found without looking at every node.
        self._seats: dict[tuple[str, int, int], dict[str, None]] = {}
        self._widest: dict[str, Vector] = {}
        self._turn: dict[str, deque[str]] = {}
        self.held: dict[RunKey, tuple[float, list[Share]]] = {}
        #: What running runs will give back, by planned time.
        self.releases: list[Release] = []

    # Nodes --------------------------------------------------------------------------------------------------------

    @property
    def executors(self) -> Iterable[str]:
        """The executors that have, or had, nodes."""
        return self._turn.keys()

    @property
    def nodes(self) -> Iterator[tuple[Node, bool, Vector, list[int], list[int]]]:
        """Each node with: is it up, the free amounts, the free cores and GPUs by name."""
        for place in self.places.values():
            node = place.node
            yield node, place.up, place.free, _named(place.cores, node.cores), _named(place.gpus, node.gpus)

    def any_up(self) -> bool:
        return any(place.up for place in self.places.values())

    def runs(self, name: str) -> int:
        """How many runs hold something on the node."""
        return sum(share.node == name for _, shares in self.held.values() for share in shares)

    def know(self, node: Node) -> None:
        """There is such a node; it is not up yet."""
        self.node_up(node)
        self.node_down(node.name)

    def node_up(self, node: Node) -> None:
        """A node is there, new or again. What runs hold on it stays held."""
        place = self.places.get(node.name)
        if place is None or place.node != node:
            self._unseat(place)
            fresh = Place(node, self._policy.max_running)
            self.places[node.name] = fresh
            for run, (_, shares) in self.held.items():
                for share in shares:
                    if share.node == node.name:
                        self._take(fresh, share)
                        self._replan(run, share, fresh)
            if place is None:
                self._turn.setdefault(node.executor, deque()).append(node.name)
            place = fresh
        place.up = True
        self._seat(place)

    def node_down(self, name: str) -> None:
        place = self.places.get(name)
        if place is not None:
            place.up = False
            self._unseat(place)

    def is_up(self, name: str) -> bool:
        place = self.places.get(name)
        return place is not None and place.up

    def _seat(self, place: Place) -> None:
        seat = (place.node.executor, place.free.gpus, place.free.cores) if place.up else None
        if seat != place.seat:
            self._unseat(place)
            if seat is not None:
                self._seats.setdefault(seat, {})[place.node.name] = None
                place.seat = seat
                widest = self._widest.get(place.node.executor, Vector(0, 0, 0, 0))
                self._widest[place.node.executor] = Vector(*map(max, widest, place.total))

    def _unseat(self, place: Place | None) -> None:
        if place is not None and place.seat is not None:
            members = self._seats[place.seat]
            del members[place.node.name]
            if not members:
                del self._seats[place.seat]
            place.seat = None

    # Holding and giving back --------------------------------------------------------------------------------------

    def hold(self, run: RunKey, shares: list[Share], until: float) -> None:
        """`run` has these shares, planned to end at `until`."""
        self.held[run] = (until, shares)
        for share in shares:
            place = self.places.get(share.node)
            if place is not None:
                amount = self._take(place, share)
                self._seat(place)
                insort(self.releases, Release(until, run, share.node, amount))

    def release(self, run: RunKey) -> bool:
        """`run` has ended; False if it held nothing."""
        held = self.held.pop(run, None)
        if held is None:
            return False
        until, shares = held
        for share in shares:
            place = self.places.get(share.node)
            if place is None:
                continue
            amount = self.amount(place, share)
            place.free = place.free.plus(amount)
            place.cores |= _mask(share.cores, place.node.cores) if share.cores else 0
            place.gpus |= _mask(share.gpus, place.node.gpus) if share.gpus else 0
            self._seat(place)
            at = bisect_left(self.releases, Release(until, run, share.node, amount))
            if at < len(self.releases) and self.releases[at].run == run:
                del self.releases[at]
        return True

    def amount(self, place: Place, share: Share) -> Vector:
        if share.exclusive:
            return place.total
        return Vector(len(share.cores), len(share.gpus), share.memory, 1)

    def _take(self, place: Place, share: Share) -> Vector:
        amount = self.amount(place, share)
        place.free = place.free.minus(amount)
        place.cores &= ~_mask(share.cores, place.node.cores) if share.cores else -1
        place.gpus &= ~_mask(share.gpus, place.node.gpus) if share.gpus else -1
        return amount

    def _replan(self, run: RunKey, share: Share, place: Place) -> None:
        """The node has changed its size, or is new: the run's planned release follows."""
        until = self.held[run][0]
        self.releases = [r for r in self.releases if not (r.run == run and r.node == share.node)]
        insort(self.releases, Release(until, run, share.node, self.amount(place, share)))

    # Looking --------------------------------------------------------------------------------------------------

    def next_slot(self, executor: str) -> str | None:
        """A node of the executor with a free slot: in turn, so that light runs spread."""
        turn = self._turn.get(executor)
        for _ in range(len(turn or ())):
            assert turn is not None
            name = turn[0]
            turn.rotate(-1)
            place = self.places[name]
            if place.up and place.free.slots >= 1:
                return name
        return None

    def candidates(self, claim: Claim) -> Iterator[Place]:
        """Nodes on which one share of the claim fits now: those with the fewest GPUs, then cores, to spare first."""
        widest = self._widest.get(claim.executor)
        if widest is None:
            return
        for gpus in range(claim.each.gpus, widest.gpus + 1):
            for cores in range(claim.each.cores, widest.cores + 1):
                for name in tuple(self._seats.get((claim.executor, gpus, cores), ())):
                    place = self.places[name]
                    if place.takes(claim):
                        yield place

    def cut(self, name: str, claim: Claim) -> Share:
        place = self.places[name]
        want = place.want(claim)
        cores = _named(_lowest(place.cores, want.cores), place.node.cores)
        gpus = _named(_lowest(place.gpus, want.gpus), place.node.gpus)
        return Share(name, cores, gpus, want.memory, claim.exclusive)

    def impossible(self, claim: Claim) -> str | None:
        """Why no known node could ever hold this claim; None if some could, or no node is known yet."""
        places = [place for place in self.places.values() if place.node.executor == claim.executor]
        if not places:
            return None
        able = [place for place in places if claim.each.fits(place.total)]
        if len(able) >= claim.nodes:
            return None
        most = Vector(*(max(amounts) for amounts in zip(*(place.total for place in places), strict=True)))
        if able:
            return f"needs {claim.nodes} such nodes, there are {len(able)}"
        wants = [
            f"{want} {what}, the largest node has {has}"
            for what, want, has in zip(("cores", "GPUs", "bytes of memory", "slots"), claim.each, most, strict=True)
            if want > has
        ]
        return "needs " + "; ".join(wants or ["a node with all of it at once, and there is none"])

    def holders(self, executor: str) -> list[tuple[RunKey, float, list[Share]]]:
        """Runs that hold more than a slot on nodes of the executor, by planned end."""
        rows = [
            (run, until, shares)
            for run, (until, shares) in self.held.items()
            if any(share.cores or share.gpus or share.memory or share.exclusive for share in shares)
            and any(self.places[share.node].node.executor == executor for share in shares if share.node in self.places)
        ]
        return sorted(rows, key=lambda row: row[1])
