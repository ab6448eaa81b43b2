"""The contract of stored messages, on every database."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from runyard.model.errors import Expired
from runyard.model.message import Message
from runyard.store import messages
from runyard.store.batch import Batch
from runyard.store.messages import Aged, MessageQueries, Total, message_values, set_horizon, set_last
from runyard.store.store import Store
from tests.integration.store_rig import T0, new_database, postgres_cluster

A, B = 1 << 40, (1 << 40) + 1
_databases = itertools.count()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with postgres_cluster() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    if request.param == "sqlite":
        return tmp_path / "data"
    return new_database(request.getfixturevalue("cluster"), f"messages{next(_databases)}")


@pytest.fixture
def store(where: Path | str) -> Iterator[Store]:
    with Store.open(where) as opened:
        yield opened


def metric(seq: int, job: int = A) -> Message:
    return Message(seq, job, "metrics", T0 + seq, {"values": {"loss": seq}}, "stdout", None)


def text(message: Message) -> bytes:
    return b'{"values":{"loss":%d}}' % message.seq if message.kind == "metrics" else b'{"text":"\xc3\xa4"}'


def add(store: Store, *new: Message) -> None:
    batch = Batch()
    batch.add_messages(message_values(message, text(message)) for message in new)
    store.commit(batch)


def test_messages_come_back_as_they_were_page_by_page(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = MessageQueries(store)
    assert queries.last_seq() == 0 and queries.page(None, 10) == ([], 0)
    first = [metric(1), Message(2, B, "error", T0 + 2, {"text": "ä"}, "report", 3), metric(3)]
    add(store, *first)
    add(store, *(metric(seq) for seq in range(4, 301)))
    assert queries.last_seq() == 300
    assert queries.page(None, 3) == (first, 3)
    assert queries.page(0, 2, job=A) == ([first[0], first[2]], 3)
    assert queries.page(298, 10) == ([metric(299), metric(300)], 300)
    assert queries.page(300, 10) == ([], 300)
    assert queries.page(None, 10, job=B) == ([first[1]], 300)
    assert queries.page(None, 10, kinds=["error"]) == ([first[1]], 300)
    assert queries.page(None, 10, job=A, kinds=["error", "info"]) == ([], 300)
    assert queries.page(297, 10, job=A, kinds=["error", "metrics"])[0] == [metric(298), metric(299), metric(300)]
    assert queries.metrics(A, 298) == [(seq, T0 + seq, text(metric(seq))) for seq in (299, 300)]
    assert [kept.seq for kept in queries.of_job(A)] == [1, *range(3, 301)]
    (kept,) = queries.of_job(B)
    assert kept == (2, "error", 13)
    # Pages of large messages are short, but one is always given.
    monkeypatch.setattr(messages, "PAGE_BYTES", 3 * len(text(metric(4))))
    found, upto = queries.page(3, 100)
    assert [message.seq for message in found] == [4, 5, 6] and upto == 6
    assert [seq for seq, _, _ in queries.metrics(A, 3)] == [4, 5, 6]
    monkeypatch.setattr(messages, "PAGE_BYTES", 1)
    assert queries.page(299, 100, job=A) == ([metric(300)], 300)
    assert [message.seq for message in queries.page(3, 100, kinds=["metrics"]).messages] == [4]


def test_a_seq_is_given_out_once_and_totals_are_written_over(store: Store) -> None:
    add(store, metric(1), metric(2))
    with pytest.raises(IntegrityError):
        add(store, metric(2))
    queries = MessageQueries(store)
    batch = Batch()
    batch.delete_messages([1, 2])
    set_last(batch, 2)
    store.commit(batch)
    assert queries.page(None, 10) == ([], 0)
    assert queries.last_seq() == 2
    batch = Batch()
    batch.set_message_total(A, 3, 99)
    batch.set_message_total(B, 1, 5)
    store.commit(batch)
    batch = Batch()
    batch.set_message_total(A, 4, 1 << 40)
    batch.set_message_total(B, 0, 0)
    store.commit(batch)
    assert queries.totals() == {A: Total(4, 1 << 40)}


def test_what_age_has_removed_is_expired_for_who_was_in_the_middle_of_it(store: Store) -> None:
    add(store, *(metric(seq) for seq in range(1, 11)))
    queries = MessageQueries(store)
    size = len(text(metric(1)))
    assert queries.aged(T0 + 4, 100) == [Aged(1, A, size), Aged(2, A, size), Aged(3, A, size)]
    assert [message.seq for message in queries.aged(T0 + 4, 2)] == [1, 2]
    batch = Batch()
    batch.delete_messages([1, 2, 3])
    set_horizon(batch, 4)
    store.commit(batch)
    assert queries.horizon() == 4
    assert [message.seq for message in queries.page(None, 2).messages] == [4, 5]
    assert [message.seq for message in queries.page(3, 2).messages] == [4, 5]
    with pytest.raises(Expired, match="no longer kept"):
        queries.page(2, 2)
    with pytest.raises(Expired):
        queries.page(2, 2, job=A)
    # Who reads a job from its very beginning takes what there is.
    assert [message.seq for message in queries.page(0, 2, job=A).messages] == [4, 5]
