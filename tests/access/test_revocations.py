"""Which tokens no longer count, and for how long that is known."""

from __future__ import annotations

import pytest

from trio_sse.access.revocations import Revocation, Revocations


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_revoked_at_first() -> None:
    assert not Revocations(Clock()).covers("ann", "t-1", 0)


def test_one_token_by_its_name() -> None:
    revocations = Revocations(Clock())
    revocations.add(Revocation("t-1", None, 0), 2000)
    assert revocations.covers("ann", "t-1", 10)
    assert revocations.covers(None, "t-1", None)
    assert not revocations.covers("ann", "t-2", 10)
    assert not revocations.covers("ann", None, 10)


def test_those_of_a_user_that_were_issued_before() -> None:
    revocations = Revocations(Clock())
    revocations.add(Revocation(None, "ann", 500), 2000)
    assert revocations.covers("ann", "any", 499)
    assert not revocations.covers("ann", "any", 500), "a token that was made since counts"
    assert not revocations.covers("bob", "any", 499)
    assert not revocations.covers(None, "any", 499)


def test_a_token_that_does_not_say_when_it_was_made_may_be_old() -> None:
    revocations = Revocations(Clock())
    revocations.add(Revocation(None, "ann", 500), 2000)
    assert revocations.covers("ann", "any", None)


def test_those_of_all_users_that_were_issued_before() -> None:
    revocations = Revocations(Clock())
    revocations.add(Revocation(None, None, 500), 2000)
    assert revocations.covers("ann", None, 1)
    assert revocations.covers(None, None, 1)
    assert not revocations.covers("ann", None, 501)


def test_it_is_forgotten_when_the_tokens_have_expired_by_themselves() -> None:
    clock = Clock()
    revocations = Revocations(clock)
    revocations.add(Revocation("t-1", None, 0), 2000)
    revocations.add(Revocation(None, "ann", 500), 2000)
    clock.now = 2000
    assert not revocations.covers("ann", "t-1", 0)


def test_of_two_about_a_user_that_which_says_more_is_kept() -> None:
    revocations = Revocations(Clock())
    revocations.add(Revocation(None, "ann", 100), 2000)
    revocations.add(Revocation(None, "ann", 500), 3000)
    assert len(revocations) == 1
    revocations.add(Revocation(None, "ann", 600), 2500)  # for a shorter time
    assert len(revocations) == 2


def test_redis_says_which_there_are_and_whether_that_is_news() -> None:
    revocations = Revocations(Clock())
    revocations.add(Revocation("gone", None, 0), 2000)
    assert revocations.replace([(Revocation("t-1", None, 0), 2000.0)])
    assert not revocations.covers(None, "gone", None)
    assert revocations.covers(None, "t-1", None)
    assert not revocations.replace([(Revocation("t-1", None, 0), 2000.0)])


def test_it_is_known_whether_they_are_all() -> None:
    clock = Clock()
    revocations = Revocations(clock)
    assert not revocations.known(30), "Redis was not asked yet"
    revocations.replace([])
    assert revocations.known(30)
    revocations.away_since = clock.now
    clock.now += 30
    assert revocations.known(30)
    clock.now += 1
    assert not revocations.known(30)
    revocations.away_since = None
    assert revocations.known(30)


@pytest.mark.parametrize(
    ("revocation", "covered"),
    [
        (Revocation("t-1", None, 0), True),
        (Revocation("t-2", None, 0), False),
        (Revocation(None, "ann", 100), True),
        (Revocation(None, "bob", 100), False),
        (Revocation(None, None, 100), True),
        (Revocation(None, None, 50), False),
        (Revocation(None, "ann", 99), False),  # issued in the very moment
    ],
)
def test_one_of_them_covers_what_all_of_them_would(revocation: Revocation, covered: bool) -> None:
    revocations = Revocations(Clock())
    revocations.add(revocation, 2000)
    claims = ("ann", "t-1", 99.0)
    assert revocation.covers(*claims) is covered is revocations.covers(*claims)


def test_all_of_them_can_be_told() -> None:
    revocations = Revocations(Clock())
    given = {Revocation("t-1", None, 0.0): 2000.0, Revocation(None, "ann", 7.0): 3000.0}
    given[Revocation(None, None, 5.0)] = 4000.0
    for revocation, until in given.items():
        revocations.add(revocation, until)
    assert dict(revocations.all()) == given
