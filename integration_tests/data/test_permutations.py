"""Permutations made at once against those that numpy's own Philox gives one by one."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mxmclr_plugin.data.permutations import Permutations

WORD = st.integers(0, 2**64 - 1)


def sorted_numbers(key, counter, n):
    philox = np.random.Philox(key=np.array(key, np.uint64), counter=np.array(counter, np.uint64))
    return np.argsort(philox.random_raw(n), kind="stable").tolist()


@given(WORD, WORD, st.integers(0, 9), st.data())
def test_sorts_the_numbers_of_numpys_philox(seed, stream, count, data):
    first = data.draw(arrays(np.int64, count))
    second = data.draw(arrays(np.int64, count, elements=st.integers(0, 2**63 - 1)))
    sizes = data.draw(arrays(np.int64, count, elements=st.integers(0, 20)))
    many = Permutations(seed).many(stream, first, second, sizes)
    counters = zip(first.tolist(), second.tolist(), sizes.tolist(), strict=True)
    expected = [
        sorted_numbers([seed, stream], [0, 0, one % 2**64, other], n) for one, other, n in counters
    ]
    assert [of.tolist() for of in many] == expected
    for number, n in zip(second.tolist(), sizes.tolist(), strict=True):
        one = Permutations(seed).one(number, n).tolist()
        assert one == sorted_numbers([seed, 0], [0, 0, number, 0], n)
