import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxmclr_plugin.data.members import Members, flattened

LISTS = st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=8)


def as_lists(members):
    return [rows.tolist() for rows in members]


@given(LISTS, st.data())
def test_members_are_lists_of_indexes(lists, data):
    members = Members.of_lists("members", lists)
    assert as_lists(members) == lists
    assert len(members) == len(lists)
    assert members.folds.tolist() == [len(rows) for rows in lists]
    assert members.repeating().tolist() == [
        k for k, rows in enumerate(lists) if len(set(rows)) < len(rows)
    ]
    assert [rows.tolist() for rows in members[1:]] == lists[1:]
    kept = data.draw(st.lists(st.integers(0, len(lists) - 1))) if lists else []
    assert as_lists(members.selected(np.array(kept, np.int64))) == [lists[k] for k in kept]
    if lists:
        assert members[-1].tolist() == lists[-1]
    for k, rows in enumerate(lists):
        places = data.draw(st.lists(st.integers(0, len(rows) - 1))) if rows else []
        assert members.picked(k, places) == [rows[place] for place in places]
        assert members.picked(k - len(lists), places) == members.picked(k, places)
        for place in (-1, len(rows)):
            with pytest.raises(IndexError):
                members.picked(k, [*places, place])
    with pytest.raises(IndexError):
        members[len(lists)]
    with pytest.raises(IndexError):
        members.picked(len(lists), [])


@given(LISTS)
def test_flattened(lists):
    records, members = flattened(lists)
    assert [[records[k] for k in rows] for rows in as_lists(members)] == lists


def test_sixteen_bytes_an_observation():
    members = Members.of_sizes(np.full(1000, 5))
    assert members.rows.nbytes + members.offsets.nbytes < 16 * 5000


def test_what_is_no_list_of_integers():
    with pytest.raises(ValueError, match=r"members\[1\] must be a list of integers, got float64"):
        Members.of_lists("members", [[0], [0.5]])
