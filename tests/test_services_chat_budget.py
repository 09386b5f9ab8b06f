"""Budgets of a chat endpoint in calls, tokens and cost."""

from __future__ import annotations

import chat_server as server
import pytest
from chat_captioners import (
    CAPTIONS,
    count_questions,
    fail_at_random,
    list_texts,
    make_captioner,
    make_pictures,
    select_images,
    set_keys,
)
from chat_server import Fault

from florence.errors import UnavailableError
from florence.services.usage import Usage


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    set_keys(monkeypatch)


def test_a_budget_in_calls_is_kept_to_the_call_and_a_raised_one_goes_on():
    batch, words = make_pictures(60)
    with server.serve_chat(
        fail_at_random(0.3, seed=1, faults=(server.HALF, server.EMPTY, server.error(500), server.CLOSED))
    ) as service:
        annotator = make_captioner(service, concurrency=8, budget_calls=23, repeat=5, retries=6)
        first = annotator.annotate(batch)
        assert len(service.calls) == annotator.usage.calls <= 23
        assert len(service.calls) == 23, "calls of one each: the budget is used up"
        left = [index for index, claims in enumerate(first) if not isinstance(claims, list)]
        assert 30 < len(left) < 60
        for index in left:
            assert (
                isinstance(first[index], UnavailableError)
                and "budget in calls" in str(first[index])
                and "annotators.gpt.service.budget_calls" in str(first[index])
            )
        assert annotator.annotate(select_images(batch, *left)) and len(service.calls) == 23, (
            "nothing is asked once it is spent"
        )
        richer = make_captioner(service, concurrency=8, budget_calls=1000, repeat=5, retries=6)
        assert richer.version == annotator.version, "claims of before count"
        richer.usage = annotator.usage
        rest = richer.annotate(select_images(batch, *left))
    assert [list_texts(claims) for claims in rest] == [[f"caption: {words[index]}"] for index in left]
    assert richer.usage == Usage(len(service.calls), service.tokens, 0.0)


def test_an_image_is_not_begun_where_the_budget_is_too_small_for_all_that_is_asked_about_it():
    batch, _ = make_pictures(12, claims=True)
    with server.serve_chat() as service:
        annotator = make_captioner(service, concurrency=8, budget_calls=9, tasks=(*CAPTIONS, "<DENSE_REGION_CAPTION>"))
        results = annotator.annotate(batch)
        assert [isinstance(claims, list) for claims in results].count(True) == 4 and len(service.calls) == 8


@pytest.mark.parametrize(
    "budget", [{"budget_tokens": 4000}, {"budget_cost": 0.012, "price_prompt": 2.0, "price_completion": 10.0}]
)
def test_budgets_in_tokens_and_cost_are_kept(budget: dict[str, float]):
    batch, _ = make_pictures(50)
    with server.serve_chat(fail_at_random(0.3, seed=2, faults=(*server.UNUSABLE, server.error(500)))) as service:
        annotator = make_captioner(service, concurrency=8, max_tokens=100, image_tokens=200, **budget)
        results = annotator.annotate(batch)
    prices = budget.get("price_prompt", 0), budget.get("price_completion", 0)
    assert annotator.usage.tokens == service.tokens and annotator.usage.calls == len(service.calls)
    limit = {"tokens": budget.get("budget_tokens"), "cost": budget.get("budget_cost")}
    for figure, most in limit.items():
        if most is not None:
            assert 0.5 * most < getattr(annotator.usage, figure) <= most
    if prices[0]:
        assert 2.0 * service.tokens / 1e6 < annotator.usage.cost < 10.0 * service.tokens / 1e6
    assert any(isinstance(claims, list) for claims in results)
    assert any(isinstance(claims, UnavailableError) and ".budget_" in str(claims) for claims in results)


@pytest.mark.parametrize("fault", [server.CLOSED, server.HALF])
def test_what_a_call_may_have_cost_that_broke_off_is_held_against_the_budget(fault: Fault):
    batch, _ = make_pictures(40)
    answered = []
    for broken in (None, fault):
        with server.serve_chat(
            count_questions(lambda index, time_, broken=broken: broken if (index, time_) == (0, 0) else None)
        ) as service:  # type: ignore[misc]
            annotator = make_captioner(service, concurrency=1, max_tokens=100, image_tokens=200, budget_tokens=3000)
            answered.append(sum(isinstance(claims, list) for claims in annotator.annotate(batch)))
            assert annotator.usage == Usage(len(service.calls), service.tokens, 0.0), "the usage is that of the answers"
    assert 5 < answered[1] < answered[0] < 40, "and the broken call counts with the most that it can cost"


def test_the_cost_of_images_is_estimated_from_the_first_answer():
    batch, _ = make_pictures(40)
    expensive = Fault(change=lambda body: {**body, "usage": {"prompt_tokens": 2000, "completion_tokens": 20}})
    with server.serve_chat(lambda received: expensive) as service:
        annotator = make_captioner(service, concurrency=8, image_tokens=10, max_tokens=100, budget_tokens=10_000)
        annotator.annotate(batch)
    assert 7_000 < annotator.usage.tokens == service.tokens <= 10_000
