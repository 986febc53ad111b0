from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from car_rpc.protocol.outbox import Outbox

EVERYTHING = 1 << 30


def test_streams_take_turns_message_by_message() -> None:
    outbox = Outbox()
    for number in range(3):
        for lane in "abc":
            outbox.put_in_lane(lane, f"{lane}{number}".encode())
    assert outbox.take(EVERYTHING) == [f"{x}{n}".encode() for n in range(3) for x in "abc"]
    assert not outbox


def test_a_stream_that_comes_later_gets_its_turn_after_one_message_of_each_other() -> None:
    outbox = Outbox()
    for _ in range(1000):
        outbox.put_in_lane("busy", b"b")
    outbox.put_in_lane("late", b"late")
    assert outbox.take(5)[:2] == [b"b", b"late"]


def test_at_least_one_message_is_taken_and_then_no_more_than_fits() -> None:
    outbox = Outbox()
    for _ in range(4):
        outbox.put_urgent(b"12345")
    assert [len(outbox.take(limit)) for limit in (1, 5, 6)] == [1, 1, 2]
    assert outbox.take(1) == []


def test_nothing_is_taken_without_room() -> None:
    outbox = Outbox()
    outbox.put_urgent(b"x")
    assert outbox.take(0) == []


def test_a_response_goes_behind_the_streams_that_ended_before_it_if_asked_to() -> None:
    outbox = Outbox()
    outbox.put_in_lane("a", b"event")
    outbox.finish_lane("a")
    outbox.put_response(b"of a", after_streams=True)
    outbox.put_response(b"other", after_streams=False)
    assert outbox.take(EVERYTHING) == [b"other", b"event", b"of a"]


def test_a_response_is_urgent_when_no_ended_stream_is_left_to_wait_for() -> None:
    outbox = Outbox()
    outbox.put_in_lane("a", b"event")
    outbox.put_response(b"now", after_streams=True)
    assert outbox.take(3) == [b"now"]


def test_of_what_passes_only_the_newest_waits_and_the_order_stays() -> None:
    outbox = Outbox()
    outbox.put_in_lane("a", b"begin")
    for number in range(1000):
        outbox.put_in_lane("a", b"%d" % number, passing=True)
    assert outbox.lane_bytes("a") == len(b"begin" + b"999")
    outbox.put_in_lane("a", b"delta")
    outbox.put_in_lane("a", b"1000", passing=True)
    outbox.put_in_lane("a", b"end")
    assert outbox.take(EVERYTHING) == [b"begin", b"999", b"delta", b"1000", b"end"]
    assert outbox.lane_bytes("a") == 0


def test_what_passes_takes_the_place_of_nothing_that_was_taken_or_of_another_stream() -> None:
    outbox = Outbox()
    outbox.put_in_lane("a", b"a1", passing=True)
    outbox.put_in_lane("b", b"b1", passing=True)
    assert outbox.take(1) == [b"a1"]
    outbox.put_in_lane("a", b"a2", passing=True)
    outbox.put_in_lane("b", b"b2", passing=True)
    assert outbox.take(EVERYTHING) == [b"b2", b"a2"]


def test_finishing_an_unknown_lane_changes_nothing() -> None:
    outbox = Outbox()
    outbox.finish_lane("a")
    assert not outbox


@given(
    st.lists(
        st.tuples(st.sampled_from(["lane", "urgent", "finish", "take"]), st.integers(0, 3)),
        max_size=60,
    )
)
def test_bytes_are_counted_and_nothing_is_lost_or_reordered_within_a_lane(
    steps: list[tuple[str, int]],
) -> None:
    outbox = Outbox()
    sent: dict[object, list[bytes]] = defaultdict(list)
    taken: list[bytes] = []
    finished: set[int] = set()
    for serial, (step, lane) in enumerate(steps):
        payload = b"%d/%d" % (lane, serial)
        if step == "lane" and lane not in finished:
            outbox.put_in_lane(lane, payload)
            sent[lane].append(payload)
        elif step == "urgent":
            outbox.put_urgent(b"u/%d" % serial)
            sent["urgent"].append(b"u/%d" % serial)
        elif step == "finish":
            outbox.finish_lane(lane)
            finished.add(lane)
        elif step == "take":
            taken += outbox.take(1 + lane * 5)
        waiting = {k: [p for p in v if p not in taken] for k, v in sent.items()}
        for number in range(4):
            held = 0 if number in finished else sum(map(len, waiting.get(number, [])))
            assert outbox.lane_bytes(number) == held
        urgent = sum(
            len(p) for k, v in waiting.items() if k == "urgent" or k in finished for p in v
        )
        assert outbox.urgent_bytes == urgent
    taken += outbox.take(EVERYTHING)
    for lane, payloads in sent.items():
        prefix = b"u/" if lane == "urgent" else b"%d/" % lane
        assert [payload for payload in taken if payload.startswith(prefix)] == payloads
    assert outbox.urgent_bytes == 0
