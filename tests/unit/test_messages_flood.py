"""What is kept of a flood, and what gives way when there is too much."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runyard.message.sampling import NOTICE_EVERY, UNIT, Allowance, choose, cost, notice
from runyard.message.surplus import TARGET, Kept, surplus
from runyard.model.message import NewMessage


def metrics(count: int) -> list[NewMessage]:
    return [NewMessage(1, "metrics", {"values": {"n": number}}, source="http") for number in range(count)]


def test_what_fits_is_kept_and_fills_again() -> None:
    allowance = Allowance(left=100.0, at=0.0)
    assert choose(allowance, metrics(80), [10] * 80) == list(range(80))
    assert allowance.left == 20.0 and allowance.untold == 0
    allowance.fill(rate=50.0, most=100.0, now=1.0)
    assert allowance.left == 70.0
    allowance.fill(rate=50.0, most=100.0, now=1000.0)
    assert allowance.left == 100.0
    # A steady clock does not go back; if it did, nothing would be taken away.
    allowance.fill(rate=50.0, most=100.0, now=0.0)
    assert allowance.left == 100.0


def test_a_flood_is_left_out_evenly() -> None:
    allowance = Allowance(left=100.0, at=0.0)
    kept = choose(allowance, metrics(1000), [10] * 1000)
    assert len(kept) == 100 and allowance.untold == 900
    assert {later - earlier for earlier, later in pairwise(kept)} == {10}


def test_errors_and_news_of_the_server_are_never_left_out() -> None:
    allowance = Allowance(left=0.0, at=0.0)
    messages: list[NewMessage] = [
        *metrics(3),
        NewMessage(1, "error", {}, source="stdout"),
        NewMessage(1, "log", {}, source="server"),
        NewMessage(1, "status", {}, source="report"),
        NewMessage(1, "log", {}, source="http"),
    ]
    assert choose(allowance, messages, [10] * 7) == [3, 4, 5]
    assert allowance.untold == 4


def test_large_messages_cost_more() -> None:
    assert [cost(size) for size in (0, 10, UNIT, 10 * UNIT)] == [1.0, 1.0, 1.0, 10.0]
    allowance = Allowance(left=10.0, at=0.0)
    assert len(choose(allowance, metrics(4), [5 * UNIT] * 4)) == 2
    assert allowance.left == 0.0


def test_a_notice_says_how_many_and_the_next_one_counts_anew() -> None:
    allowance = Allowance(left=0.0, at=0.0, untold=7)
    assert allowance.patience(0.0) == 0.0
    said = notice(1, allowance, 100.0)
    assert (said.kind, said.source, said.body["code"], said.body["count"]) == ("info", "server", "dropped", 7)
    assert allowance.untold == 0
    assert allowance.patience(100.0 + NOTICE_EVERY / 2) == NOTICE_EVERY / 2
    assert allowance.patience(100.0 + 2 * NOTICE_EVERY) == 0.0


SIZES = st.lists(st.integers(0, 5 * UNIT), max_size=60)


@given(sizes=SIZES, left=st.floats(0, 100), precious=st.sets(st.integers(0, 59)))
def test_no_more_is_kept_than_there_is_room_for(sizes: list[int], left: float, precious: set[int]) -> None:
    allowance = Allowance(left=left, at=0.0)
    kinds = ["error" if place in precious else "metrics" for place in range(len(sizes))]
    kept = choose(allowance, [NewMessage(1, kind, {}, source="http") for kind in kinds], sizes)
    assert kept == sorted(set(kept))
    errors = {place for place, kind in enumerate(kinds) if kind == "error"}
    assert errors <= set(kept)
    others = sum(cost(sizes[place]) for place in kept if place not in errors)
    assert others <= left + 1e-6
    assert allowance.untold == len(sizes) - len(kept) and allowance.left >= -1e-6


# What gives way ---------------------------------------------------------------------------------------------------


def stored(*kinds: str, size: int = 100) -> list[Kept]:
    return [Kept(seq, kind, size) for seq, kind in enumerate(kinds, 1)]


def test_nothing_goes_while_there_is_room() -> None:
    assert surplus(stored(*["metrics"] * 1000), 1000, 100_000) == []


def test_metrics_are_thinned_so_that_a_curve_keeps_its_beginning() -> None:
    gone = set(surplus(stored(*["metrics"] * 2000), 1000, 1 << 40))
    left = [seq for seq in range(1, 2001) if seq not in gone]
    assert len(left) == 1000 * TARGET
    assert left[0] == 1 and left[-100:] == list(range(1901, 2001))
    # The older, the thinner, and no long hole anywhere.
    assert max(later - earlier for earlier, later in pairwise(left)) <= 64


def test_errors_go_last() -> None:
    kinds = ["error"] * 50 + ["log"] * 500 + ["metrics"] * 500
    messages = stored(*kinds)
    gone = set(surplus(messages, 500, 1 << 40))
    assert not [message for message in messages if message.kind == "error" and message.seq in gone]
    assert len(messages) - len(gone) == 500 * TARGET
    # Logs go oldest first.
    logs = [message.seq in gone for message in messages if message.kind == "log"]
    assert logs == sorted(logs, reverse=True)


def test_size_counts_too() -> None:
    messages = stored(*["metrics"] * 300, size=1000)
    gone = surplus(messages, 1 << 40, 200_000)
    assert len(messages) - len(gone) == 200 * TARGET


@given(
    kinds=st.lists(st.sampled_from(["metrics", "log", "error"]), max_size=400),
    most=st.integers(1, 400),
    most_bytes=st.integers(1, 50_000),
)
def test_what_is_left_fits_or_is_the_newest(kinds: list[str], most: int, most_bytes: int) -> None:
    messages = stored(*kinds)
    gone = surplus(messages, most, most_bytes)
    assert gone == sorted(set(gone))
    left = len(messages) - len(gone)
    assert (left <= most and left * 100 <= most_bytes) or left == 100 or (not gone and left <= 100)
    assert not set(gone) & {message.seq for message in messages[-100:]}
