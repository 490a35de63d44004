"""The search for the queries of a failed call that are to blame."""

from __future__ import annotations

import math

import pytest

from shoal._isolate import isolate


def search(n, guilty):
    """What a search of n queries finds, and the calls that it takes."""
    calls = []
    search = isolate(list(range(n)), RuntimeError("all"))
    try:
        part = next(search)
        while True:
            calls.append(part)
            bad = [i for i in part if i in guilty]
            part = search.send(RuntimeError(str(bad)) if bad else None)
    except StopIteration as end:
        return {i: str(error) for i, error in end.value.items()}, calls


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 32, 33])
def test_one_guilty_query_fails_alone_within_two_log_n_calls(n):
    for guilty in range(n):
        errors, calls = search(n, {guilty})
        assert errors == {guilty: str([guilty])}
        assert len(calls) <= 2 * math.log2(n), (guilty, calls)


def test_several_guilty_queries_are_found_and_the_calls_are_bounded():
    assert search(32, {0, 31})[0] == {0: "[0]", 31: "[31]"}
    for n in (8, 32, 128):
        for step in (2, 3, 5):
            guilty = set(range(1, n, step))
            errors, calls = search(n, guilty)
            assert guilty <= errors.keys()
            assert len(calls) <= 8 * math.log2(n)


def test_where_everything_fails_the_search_ends_soon():
    errors, calls = search(32, set(range(32)))
    assert errors.keys() == set(range(32))
    assert len(calls) <= 9
