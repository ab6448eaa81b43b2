"""The nouns: ids and their F58 form, quantities, states, event types and the agent's frames."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runyard.model import wire
from runyard.model.errors import InvalidInput
from runyard.model.event import EVENT_TYPES
from runyard.model.ids import (
    EPOCH,
    GENERATOR_BITS,
    MAX_ID,
    SEQUENCE_BITS,
    JobIds,
    RunKey,
    f58,
    parse_job_id,
)
from runyard.model.quantity import parse_duration, parse_size
from runyard.model.signals import signal_name, signal_number
from runyard.model.state import ACTIVE, BY_CODE, CODE, ENDED, LIVE, TRANSITIONS, State

NOW = 1_795_253_400.125
IDS = st.integers(0, MAX_ID)

# From the tests of flux-core, which RFC 20 describes.
VECTORS = {
    0: "ƒ1",
    1: "ƒ2",
    57: "ƒz",
    58: "ƒ21",
    1234: "ƒNH",
    21860712448: "ƒaJksCK",
    505833062400: "ƒEHfjfVZ",
    6731191091817518: "ƒuZZybuNNy",
    9007199254740992: "ƒ2DLNrMSKuh",
    18446744073709551615: "ƒjpXCZedGfVQ",
}


# Ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "text"), VECTORS.items())
def test_f58_agrees_with_flux(number: int, text: str) -> None:
    assert f58(number) == text
    expected = number if number <= MAX_ID else None
    assert parse_job_id(text) == expected
    assert parse_job_id("f" + text[1:]) == expected


@given(IDS)
def test_every_spelling_of_an_id_reads_back(number: int) -> None:
    assert parse_job_id(str(number)) == number
    assert parse_job_id(f58(number)) == number
    assert parse_job_id("f" + f58(number)[1:]) == number


@pytest.mark.parametrize(
    "text",
    ["", "ƒ", "f", "-1", "+1", "1.0", " 1", "1 ", "٣", "0x10", "train", "ƒ0", "ƒO", "ƒI", "ƒl", "f 2", "fool"],
)
def test_what_is_no_id_is_refused(text: str) -> None:
    assert parse_job_id(text) is None


@pytest.mark.parametrize("text", [str(MAX_ID + 1), "9" * 5000, "ƒ" + "z" * 11, "ƒ" + "1" * 12])
def test_an_id_out_of_range_is_refused(text: str) -> None:
    assert parse_job_id(text) is None


@given(st.text(max_size=20))
def test_reading_an_id_never_fails(text: str) -> None:
    number = parse_job_id(text)
    assert number is None or 0 <= number <= MAX_ID


@given(st.lists(st.floats(EPOCH / 1000, EPOCH / 1000 + 3e8), min_size=1, max_size=50), st.integers(0, 16383))
def test_ids_grow_even_when_the_clock_goes_back(times: list[float], generator: int) -> None:
    ids = JobIds(generator)
    made = [ids.next(now) for now in times]
    assert all(earlier < later for earlier, later in itertools.pairwise(made))
    assert all(0 < number <= MAX_ID for number in made)
    assert {number >> SEQUENCE_BITS & (1 << GENERATOR_BITS) - 1 for number in made} == {generator}


def test_more_ids_than_a_millisecond_holds_stay_unique_and_near() -> None:
    ids = JobIds()
    made = [ids.next(NOW) for _ in range(5000)]
    assert made == sorted(set(made))
    drift = (made[-1] >> GENERATOR_BITS + SEQUENCE_BITS) - (int(NOW * 1000) - EPOCH)
    assert drift == 5000 // 1024


@given(IDS.filter(lambda number: number < MAX_ID >> 1))
def test_ids_go_on_behind_the_largest_that_is_known(after: int) -> None:
    ids = JobIds(after=after)
    assert after < ids.next(EPOCH / 1000) < ids.next(EPOCH / 1000)


def test_ids_hold_the_time_of_their_making() -> None:
    number = JobIds(generator=7).next(NOW)
    assert (number >> GENERATOR_BITS + SEQUENCE_BITS) + EPOCH == int(NOW * 1000)


@pytest.mark.parametrize("generator", [-1, 1 << GENERATOR_BITS])
def test_a_generator_out_of_range_is_refused(generator: int) -> None:
    with pytest.raises(InvalidInput, match="between 0 and 16383"):
        JobIds(generator)


def test_a_run_is_named_by_its_three_numbers() -> None:
    assert str(RunKey(1529850575716352000, 0, 12)) == "1529850575716352000.0.12"


# Quantities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("90", 90.0),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("1m500ms", 60.5),
        (" 1H ", 3600.0),
        ("2d", 172800.0),
        ("1w", 604800.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "h", "1x", "1h 30m", "-1h", "1h-2m", "inf", "nan", "1e999", "90 s", "ten"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59))
def test_durations_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * 3600 + minutes * 60 + seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("512", 512),
        ("10B", 10),
        ("1k", 1024),
        ("512M", 512 << 20),
        ("2GiB", 2 << 30),
        ("1.5G", 3 << 29),
        ("3 tb", 3 << 40),
        ("1P", 1 << 50),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1E", "1 2", "0x10", "1MM", "inf", "nan", "٣", "9" * 400 + "P"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [("SIGTERM", 15), ("term", 15), ("9", 9), (10, 10), ("SIGNOPE", None), ("0", None), ("65", None), ("-9", None)],
)
def test_signals_by_name_and_number(text: str | int, number: int | None) -> None:
    assert signal_number(text) == number


def test_signal_names() -> None:
    assert signal_name(15) == "SIGTERM"
    assert signal_name(40) == "40"
    assert signal_name(None) is None


# States -----------------------------------------------------------------------------------------------------------


def test_live_and_ended_part_the_states() -> None:
    assert set(State) == LIVE | ENDED
    assert not LIVE & ENDED
    assert {State.PENDING} == LIVE - ACTIVE


def test_every_state_has_its_transitions_and_none_leads_to_itself() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(state not in following for state, following in TRANSITIONS.items())


def test_an_ended_job_leaves_its_state_only_by_a_restart() -> None:
    assert all(TRANSITIONS[state] == {State.PENDING} for state in ENDED)


def test_every_live_job_can_end_in_every_way_and_every_state_can_be_reached() -> None:
    assert all(TRANSITIONS[state] >= ENDED for state in LIVE)
    assert set().union(*TRANSITIONS.values()) == set(State)


def test_nothing_is_stopped_that_was_not_started() -> None:
    assert State.STOPPING not in TRANSITIONS[State.PENDING]
    assert State.RUNNING not in TRANSITIONS[State.PENDING]


def test_stored_codes_never_change() -> None:
    # A store of an earlier version holds these numbers.
    assert {str(state): number for state, number in CODE.items()} == {
        "pending": 0,
        "starting": 1,
        "running": 2,
        "stopping": 3,
        "succeeded": 4,
        "failed": 5,
        "cancelled": 6,
        "timed_out": 7,
    }
    assert all(BY_CODE[CODE[state]] is state for state in State)


def test_every_state_has_its_event() -> None:
    assert {f"job.{state}" for state in State} <= set(EVENT_TYPES)
    assert len(set(EVENT_TYPES)) == len(EVENT_TYPES)


# Frames -----------------------------------------------------------------------------------------------------------

RUNS = st.builds(RunKey, IDS, st.integers(0, 9999), st.integers(1, 10**6))
MAYBE = st.none() | st.integers(0, 255)
LAUNCHES = st.builds(
    wire.Launch,
    run=RUNS,
    argv=st.lists(st.text(max_size=20), min_size=1, max_size=4),
    env=st.dictionaries(st.text(min_size=1, max_size=8), st.text(max_size=20), max_size=3),
    cwd=st.none() | st.text(max_size=20),
    stdout=st.text(max_size=20),
    stderr=st.text(max_size=20),
    cores=st.none() | st.lists(st.integers(0, 511), max_size=4),
    rlimits=st.none() | st.dictionaries(st.sampled_from(["nofile", "core"]), st.integers(0, 1 << 62)),
)
TO_AGENT = st.one_of(
    LAUNCHES,
    st.builds(wire.Stop, RUNS, st.integers(1, 64), st.floats(0, 1e5)),
    st.builds(wire.Signal, RUNS, st.integers(1, 64)),
    st.builds(wire.Ack, IDS),
    st.builds(wire.Shutdown, st.booleans()),
)
FROM_AGENT = st.one_of(
    st.builds(wire.Started, IDS, RUNS, st.integers(1, 1 << 22), st.floats(0, 1e10)),
    st.builds(wire.Exited, IDS, RUNS, st.integers(0, 1 << 22), st.floats(0, 1e10), MAYBE, MAYBE, st.booleans()),
    st.builds(wire.Farewell, st.none() | st.text(max_size=20)),
    st.builds(
        wire.Hello,
        protocol=st.just(wire.PROTOCOL),
        pid=st.integers(1, 1 << 22),
        boot_id=st.text(max_size=36),
        hostname=st.text(max_size=20),
        cores=st.lists(st.integers(0, 511), max_size=4),
        memory=st.integers(0, 1 << 50),
        live=st.lists(RUNS, max_size=3),
        unacked=st.integers(0, 1000),
    ),
)


def _cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.lists(TO_AGENT, max_size=4), max_size=4), st.lists(st.integers(0, 10**6), max_size=20))
def test_frames_to_the_agent_arrive_however_they_are_cut(frames: list[list[wire.ToAgent]], places: list[int]) -> None:
    stream = b"".join(wire.encode_frame(messages) for messages in frames)
    reader = wire.Frames()
    got = [wire.decode_to_agent(body) for piece in _cut(stream, places) for body in reader.feed(piece)]
    assert got == frames


@given(st.lists(st.lists(FROM_AGENT, max_size=4), max_size=4))
def test_frames_from_the_agent_arrive_byte_by_byte(frames: list[list[wire.FromAgent]]) -> None:
    stream = b"".join(wire.encode_frame(messages) for messages in frames)
    reader = wire.Frames()
    got = [wire.decode_from_agent(body) for byte in stream for body in reader.feed(bytes([byte]))]
    assert got == frames


def test_a_run_key_is_a_run_key_again_behind_the_wire() -> None:
    [stop] = wire.decode_to_agent(wire.encode_frame([wire.Stop(RunKey(5, 0, 1), 15, 10.0)])[4:])
    assert isinstance(stop, wire.Stop)
    assert isinstance(stop.run, RunKey)


def test_a_frame_that_is_too_long_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="longer than"):
        list(wire.Frames().feed((wire.MAX_FRAME + 1).to_bytes(4, "big")))


def test_an_unknown_message_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        wire.decode_to_agent(msgspec.msgpack.encode([["Launder", 1]]))


@given(st.binary(max_size=50))
@example(b"\xff")
def test_a_body_that_is_no_frame_raises_only_what_is_documented(body: bytes) -> None:
    try:
        wire.decode_to_agent(body)
    except msgspec.DecodeError:  # ValidationError is one too
        return
    assert isinstance(msgspec.msgpack.decode(body), list)
