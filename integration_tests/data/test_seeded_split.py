import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxmclr_plugin.data.seeded_split import seeded_order


@given(st.integers(0, 200), st.integers(0, 2**63))
def test_every_thing_has_one_place_and_the_seed_says_which(n, seed):
    order = seeded_order(n, seed)
    assert sorted(order.tolist()) == list(range(n))
    assert (seeded_order(n, seed) == order).all()


def test_seeds_differ():
    assert (seeded_order(100, 0) != seeded_order(100, 1)).any()
    with pytest.raises(ValueError, match="seed must be 0 or more"):
        seeded_order(3, -1)
