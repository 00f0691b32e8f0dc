"""When a provider rests, for how long, and what brings it back."""

from __future__ import annotations

import pytest

from indexer.chain.breaker import Breaker, rest_after
from indexer.chain.refusals import (
    BatchLimit,
    Billing,
    CallFailed,
    Inconsistent,
    MethodMissing,
    OtherBranch,
    PastHead,
    ProviderError,
    Pruned,
    RateLimited,
    TimedOut,
    TooManyResults,
    Transport,
    Unauthorized,
    UnknownRefusal,
    WrongChain,
)

H = "node.example"


def breaker() -> Breaker:
    return Breaker(spread=lambda: 1.0)


@pytest.mark.parametrize(
    "error",
    [
        CallFailed(H, "", out_of_gas=False),
        *(kind(H, "") for kind in (PastHead, Pruned, TooManyResults, UnknownRefusal, MethodMissing, BatchLimit)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_refusal_of_one_question_says_nothing_of_the_next(error: ProviderError) -> None:
    assert rest_after(error, 1) is None
    assert not breaker().fail(0.0, 0.0, error)


@pytest.mark.parametrize("kind", [Transport, TimedOut, Inconsistent, RateLimited, Billing, Unauthorized, WrongChain])
def test_rests_grow_from_failure_to_failure_up_to_a_bound(kind: type[ProviderError]) -> None:
    rests = [rest for count in range(1, 40) if (rest := rest_after(kind(H, ""), count))]

    seconds = [rest.seconds for rest in rests]
    assert seconds == sorted(seconds)
    assert seconds[0] < seconds[1]
    assert seconds[-1] == seconds[-2] <= 3600


def test_billing_rests_longest_and_transport_is_never_barred() -> None:
    billing, dead = rest_after(Billing(H, ""), 1), rest_after(Transport(H, ""), 1)

    assert billing
    assert dead
    assert billing.seconds >= 600
    assert billing.hard
    assert not dead.hard


def test_retry_after_is_kept_to_exactly_and_bounded() -> None:
    one = Breaker(spread=lambda: 9.9)
    one.fail(10.0, 10.0, RateLimited(H, "", 7.0))

    assert one.resting_s(10.0) == 7.0
    assert one.barred(16.9)
    assert not one.barred(17.0)
    rest = rest_after(RateLimited(H, "", 1e9), 1)
    assert rest
    assert rest.seconds == 3600


def test_breaker_goes_from_closed_over_open_and_half_open_to_closed() -> None:
    one = breaker()
    assert one.state(0.0) == "closed"

    assert one.fail(0.0, 0.0, Transport(H, "away"))
    assert one.state(1.9) == "open"
    assert one.state(2.0) == "half-open"

    assert one.begin(2.0)
    assert one.is_tried
    assert not one.begin(2.0)
    one.end()
    assert one.succeed(2.0)
    assert one.state(2.0) == "closed"
    assert not one.succeed(2.0)


def test_failed_trial_rests_longer_and_is_no_new_outage() -> None:
    one = breaker()
    one.fail(0.0, 0.0, Transport(H, "away"))

    assert not one.fail(2.0, 2.0, Transport(H, "away"))
    assert one.resting_s(2.0) == 4.0


def test_operations_that_fail_together_count_once() -> None:
    one = breaker()
    for _ in range(8):
        one.fail(5.0, 0.0, Transport(H, "away"))

    assert one.failures == 1
    assert one.resting_s(5.0) == 2.0


def test_success_of_what_began_before_the_outage_ends_nothing() -> None:
    one = breaker()
    one.fail(5.0, 1.0, RateLimited(H, "", 30.0))

    assert not one.succeed(started=4.0)
    assert one.barred(6.0)


def test_late_news_of_the_same_moment_can_only_lengthen_the_rest() -> None:
    one = breaker()
    one.fail(5.0, 0.0, Transport(H, "away"))
    one.fail(5.1, 0.0, Billing(H, "pay"))
    one.fail(5.2, 0.0, Transport(H, "away"))

    assert one.barred(100.0)
    assert isinstance(one.error, Billing)


def test_barred_provider_may_be_tried_as_the_last_resort_after_a_while() -> None:
    one = breaker()
    one.fail(0.0, 0.0, RateLimited(H, "", 3000.0))

    assert not one.is_last_resort(59.0)
    assert one.is_last_resort(60.0)
    assert one.barred(60.0)


def test_recheck_lets_it_be_tried_now_and_reset_forgets() -> None:
    one = breaker()
    one.fail(0.0, 0.0, OtherBranch(H, "elsewhere"))
    one.recheck(3.0)
    assert one.state(3.0) == "half-open"

    one.reset()
    assert one.state(3.0) == "closed"
    assert one.failures == 0
