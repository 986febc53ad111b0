"""What is known of servers and models that come and go."""

import pytest

from car_rpc.backends.openai_compat.presence import Change, Presence
from car_rpc.wire.models import ModelSchema, OpenAICompatSource

HERE, THERE = "http://here", "http://there"


def model(name: str, endpoint: str = HERE, tags: tuple[str, ...] = ("discovered",)) -> ModelSchema:
    return ModelSchema(
        id=f"vllm/{name}:1",
        source=OpenAICompatSource(endpoint=endpoint, model=name),
        capabilities=["generate"],
        tags=list(tags),
    )


A, B, C = model("a"), model("b"), model("c", THERE)


@pytest.fixture
def presence() -> Presence:
    presence = Presence()
    assert presence.listed(HERE, [A, B]) == Change([A.id, B.id], [])
    assert presence.listed(THERE, [C]) == Change([C.id], [])
    return presence


def test_a_second_look_that_finds_the_same_changes_nothing(presence: Presence) -> None:
    assert presence.listed(HERE, [A, B]) == Change([], [])
    assert presence.models() == [A, B, C]


def test_a_server_that_is_away_takes_its_models_along_and_brings_them_back(
    presence: Presence,
) -> None:
    assert presence.unreachable(HERE) == Change([], [A.id, B.id])
    assert [presence.has(m) for m in (A, B, C)] == [False, False, True]
    assert presence.unreachable(HERE) == Change([], [])
    assert presence.models() == [A, B, C]
    presence.reachable(HERE)
    assert presence.has(A)
    assert presence.listed(HERE, [A, B]) == Change([], [])


def test_a_model_that_its_server_lists_no_more_is_known_for_one_look(presence: Presence) -> None:
    assert presence.listed(HERE, [A]) == Change([], [B.id])
    assert (presence.has(A), presence.has(B)) == (True, False)
    assert B in presence.models()
    assert presence.listed(HERE, [A]) == Change([], [])
    assert B not in presence.models()
    assert presence.listed(HERE, [A, B]) == Change([B.id], [])
    assert presence.has(B)


def test_a_model_may_come_back_at_the_next_look(presence: Presence) -> None:
    presence.listed(HERE, [A])
    assert presence.listed(HERE, [A, B]) == Change([], [])
    assert presence.has(B)


def test_a_model_that_went_stays_gone_when_its_server_answers(presence: Presence) -> None:
    presence.listed(HERE, [A])
    presence.unreachable(HERE)
    presence.reachable(HERE)
    assert not presence.has(B)


def test_the_users_own_models_are_always_tried(presence: Presence) -> None:
    presence.unreachable(HERE)
    assert presence.has(model("own", tags=()))


def test_addresses_that_nobody_discovered_are_not_kept() -> None:
    presence = Presence()
    assert presence.unreachable(HERE) == Change([], [])
    assert presence.listed(HERE, [A]) == Change([A.id], [])
    assert presence.has(A)


def test_what_is_kept_has_a_bound() -> None:
    presence = Presence()
    for look in range(50):
        presence.listed(HERE, [model(f"{look}-{n}") for n in range(10)])
    assert len(presence.models()) == 20
    assert len(presence._dropped) == 10
