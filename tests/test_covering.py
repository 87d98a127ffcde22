"""Pairwise covering arrays: no pair is lost, and they are small."""

from itertools import combinations, product

import pytest

from covering import chosen, selected


def pairs(rows):
    return {pair for row in rows for pair in combinations(sorted(row.items()), 2)}


def table(*sizes):
    return [
        {f"f{k}": value for k, value in enumerate(row)}
        for row in product(*(range(size) for size in sizes))
    ]


@pytest.mark.parametrize(
    ("sizes", "most"),
    [((7,), 7), ((4, 3), 12), ((3, 3, 3), 12), ((2,) * 8, 12), ((20, 10, 2, 2), 210)],
    ids=str,
)
def test_every_pair_is_there_in_few_rows(sizes, most):
    rows = table(*sizes)
    places = chosen(rows)
    assert places == sorted(set(places)) == chosen(rows)
    assert pairs(rows[k] for k in places) == pairs(rows)
    assert len(places) <= most


def test_rows_that_are_no_product_keep_their_pairs():
    rows = [row for row in table(4, 4, 3) if row["f0"] != row["f1"] or row["f2"] == 0]
    assert pairs(rows[k] for k in chosen(rows)) == pairs(rows)


def test_each_key_of_a_dictionary_varies_by_itself():
    options = [{}, dict(reverse=True), dict(bias=False), dict(reverse=True, bias=False)]
    sets = [dict(name=name, options=each) for name in "abc" for each in options]
    rows = [
        dict(name=each["name"], **{key: each["options"].get(key) for key in ("bias", "reverse")})
        for each in sets
    ]
    places = selected(sets)
    assert pairs(rows[k] for k in places) == pairs(rows)
    assert len(places) == 6  # of twelve: each name with and without either option


def test_objects_without_a_name_are_apart():
    functions = [lambda x: x, lambda x: -x]
    sets = [dict(of=of, size=size) for of in functions for size in (1, 2)]
    assert selected(sets) == [0, 1, 2, 3]
