"""The nodes, what they have free, and which run holds what."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from runyard.core.claim import Claim, Policy, Vector
from runyard.model.ids import RunKey
from runyard.model.node import Node, Share


class Release(NamedTuple):
    """What a running run will give back on one node, at the end of its planned time (Unix seconds)."""

    end: float
    run: RunKey
    amount: Vector


class Place:
    """A node's present state: its free cores and GPUs as bit masks over their positions."""

    __slots__ = ("cores", "free", "gpus", "level", "node", "releases", "total", "up")

    def __init__(self, node: Node, slots: int) -> None:
        self.node = node
        self.total = Vector(len(node.cores), len(node.gpus), node.memory, slots)
        self.free = self.total
        self.cores = (1 << len(node.cores)) - 1
        self.gpus = (1 << len(node.gpus)) - 1
        self.up = False
        self.level: tuple[int, int] | None = None
        """Free GPUs and cores, as the pool has filed it; None while it is down."""
        self.releases: list[Release] = []
        """By planned end."""

    def want(self, claim: Claim) -> Vector:
        """What `claim` takes of this node in particular."""
        return self.total if claim.exclusive else claim.each

    def takes(self, claim: Claim) -> bool:
        return self.want(claim).fits(self.free) and claim.each.fits(self.total)

    def amount(self, share: Share) -> Vector:
        if share.exclusive:
            return self.total
        return Vector(len(share.cores), len(share.gpus), share.memory, share.tasks)

    def take(self, run: RunKey, share: Share, until: float) -> None:
        amount = self.amount(share)
        self.free = self.free.minus(amount)
        if share.cores:
            self.cores &= ~_mask(share.cores, self.node.cores)
        if share.gpus:
            self.gpus &= ~_mask(share.gpus, self.node.gpus)
        insort(self.releases, Release(until, run, amount))

    def give_back(self, run: RunKey, share: Share, until: float) -> None:
        amount = self.amount(share)
        self.free = self.free.plus(amount)
        if share.cores:
            self.cores |= _mask(share.cores, self.node.cores)
        if share.gpus:
            self.gpus |= _mask(share.gpus, self.node.gpus)
        del self.releases[bisect_left(self.releases, Release(until, run, amount))]

    def cut(self, claim: Claim) -> Share:
        """A share for the claim out of what is free: the cores and GPUs that come first."""
        want = self.want(claim)
        cores = _named(_lowest(self.cores, want.cores), self.node.cores)
        gpus = _named(_lowest(self.gpus, want.gpus), self.node.gpus)
        return Share(self.node.name, cores, gpus, want.memory, claim.exclusive, claim.each.slots)


def _lowest(mask: int, count: int) -> int:
    """The `count` lowest set bits of `mask`."""
    taken = 0
    for _ in range(count):
        bit = mask & -mask
        taken |= bit
        mask ^= bit
    return taken


def _named(mask: int, names: list[int]) -> list[int]:
    return [name for position, name in enumerate(names) if mask >> position & 1] if mask else []


def _mask(chosen: Iterable[int], names: list[int]) -> int:
    mask = 0
    for name in chosen:
        if name in names:  # not so where the node has come back smaller
            mask |= 1 << names.index(name)
    return mask


class Pool:
    """All nodes of all executors. Changed only by its methods."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.places: dict[str, Place] = {}
        # Nodes that are up, by executor, then free GPUs and cores: a fit is found without looking at every node. The
        # levels that have nodes are also kept in order.
        self._members: dict[str, dict[tuple[int, int], dict[str, None]]] = {}
        self._levels: dict[str, list[tuple[int, int]]] = {}
        self._sizes: dict[str, Counter[Vector]] = {}
        self._turn: dict[str, deque[str]] = {}
        self.held: dict[RunKey, tuple[float, list[Share]]] = {}
        self._on: dict[str, dict[RunKey, None]] = {}
        #: Sets that collect the names of the nodes that have changed, for whoever has put them here.
        self.watchers: list[set[str]] = []

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

    def any_up(self, executor: str) -> bool:
        return any(place.up for place in self.places.values() if place.node.executor == executor)

    def runs_on(self, name: str) -> list[RunKey]:
        """The runs that hold something on the node."""
        return list(self._on.get(name, ()))

    def runs(self, name: str) -> int:
        """How many runs hold something on the node."""
        return len(self._on.get(name, ()))

    def know(self, node: Node) -> bool:
        """There is such a node, whether it is up or not. True if it is new, or not as it was."""
        old = self.places.get(node.name)
        if old is not None and old.node == node:
            return False
        place = self.places[node.name] = Place(node, self._policy.max_running)
        if old is None:
            self._turn.setdefault(node.executor, deque()).append(node.name)
        else:
            self._unfile(old)
            self._sizes[old.node.executor][old.total] -= 1
            place.up = old.up
        self._sizes.setdefault(node.executor, Counter())[place.total] += 1
        for run in self.runs_on(node.name):
            until, shares = self.held[run]
            for share in shares:
                if share.node == node.name:
                    place.take(run, share, until)
        self._file(place)
        return True

    def node_up(self, node: Node) -> bool:
        """A node is there, new or again. What runs hold on it stays held. True if it is new, or not as it was."""
        changed = self.know(node)
        place = self.places[node.name]
        place.up = True
        self._file(place)
        return changed

    def node_down(self, name: str) -> None:
        place = self.places.get(name)
        if place is not None:
            place.up = False
            self._file(place)

    def is_up(self, name: str) -> bool:
        place = self.places.get(name)
        return place is not None and place.up

    def _file(self, place: Place) -> None:
        """The node has changed: puts it where it now belongs."""
        for changed in self.watchers:
            changed.add(place.node.name)
        level = (place.free.gpus, place.free.cores) if place.up else None
        if level == place.level:
            return
        self._unfile(place)
        if level is not None:
            executor = place.node.executor
            members = self._members.setdefault(executor, {})
            if level not in members:
                members[level] = {}
                insort(self._levels.setdefault(executor, []), level)
            members[level][place.node.name] = None
            place.level = level

    def _unfile(self, place: Place) -> None:
        if place.level is not None:
            members = self._members[place.node.executor]
            del members[place.level][place.node.name]
            if not members[place.level]:
                del members[place.level]
                levels = self._levels[place.node.executor]
                del levels[bisect_left(levels, place.level)]
            place.level = None

    # Holding and giving back --------------------------------------------------------------------------------------

    def hold(self, run: RunKey, shares: list[Share], until: float) -> None:
        """`run` has these shares, planned to end at `until`."""
        self.held[run] = (until, shares)
        for share in shares:
            self._on.setdefault(share.node, {})[run] = None
            place = self.places.get(share.node)
            if place is not None:
                place.take(run, share, until)
                self._file(place)

    def release(self, run: RunKey) -> bool:
        """`run` has ended; False if it held nothing."""
        held = self.held.pop(run, None)
        if held is None:
            return False
        until, shares = held
        for share in shares:
            del self._on[share.node][run]
            place = self.places.get(share.node)
            if place is not None:
                place.give_back(run, share, until)
                self._file(place)
        return True

    # Looking ------------------------------------------------------------------------------------------------------

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
        """Nodes on which one share of the claim fits now: those with the fewest GPUs, then cores, to spare first.

        The pool must not be changed while this is read.
        """
        members = self._members.get(claim.executor, {})
        each = claim.each
        levels = self._levels.get(claim.executor, [])
        if claim.exclusive:
            # Only a node that has all of its own can be given away whole.
            sizes: Iterable[Vector] = self._sizes.get(claim.executor, ())
            levels = sorted({(total.gpus, total.cores) for total in sizes} & members.keys())
        for position in range(bisect_left(levels, (each.gpus, each.cores)), len(levels)):
            level = levels[position]
            if level[1] >= each.cores:
                for name in members[level]:
                    place = self.places[name]
                    if place.takes(claim):
                        yield place

    def fits_now(self, claim: Claim) -> bool:
        """Are there nodes enough on which the claim fits now?"""
        return sum(1 for _ in zip(range(claim.nodes), self.candidates(claim), strict=False)) == claim.nodes

    def impossible(self, claim: Claim) -> str | None:
        """Why no known node could ever hold this claim; None if some could, or no node is known yet."""
        sizes = [(total, count) for total, count in self._sizes.get(claim.executor, {}).items() if count]
        if not sizes:
            return None
        able = sum(count for total, count in sizes if claim.each.fits(total))
        if able >= claim.nodes:
            return None
        if able:
            return f"needs {claim.nodes} such nodes, there {'is' if able == 1 else 'are'} {able}"
        most = Vector(*(max(amounts) for amounts in zip(*(total for total, _ in sizes), strict=True)))
        wants = [
            f"{want} {what}, the largest node has {has}"
            for what, want, has in zip(
                ("cores", "GPUs", "bytes of memory", "process slots"), claim.each, most, strict=True
            )
            if want > has
        ]
        return "needs " + "; ".join(wants or ["a node with all of it at once, and there is none"])

    def holders(self, executor: str, *, slots: bool = False) -> list[tuple[RunKey, float, list[Share]]]:
        """Runs that hold more than a slot (with `slots`: or only that) on nodes of the executor, by planned end."""
        rows = [
            (run, until, shares)
            for run, (until, shares) in self.held.items()
            if (slots or any(share != Share(share.node, [], [], 0) for share in shares))
            and any(self.places[share.node].node.executor == executor for share in shares if share.node in self.places)
        ]
        return sorted(rows, key=lambda row: row[1])
