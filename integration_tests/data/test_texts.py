import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxmclr_plugin.data.texts import Texts

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(TEXT), st.slices(20))
def test_is_the_list(texts, part):
    packed = Texts(iter(texts))
    assert list(packed) == texts
    assert len(packed) == len(texts)
    assert packed[part] == texts[part]
    for k in range(-len(texts), len(texts)):
        assert packed[k] == texts[k]
    for k in (-len(texts) - 1, len(texts)):
        with pytest.raises(IndexError):
            packed[k]
    assert list(pickle.loads(pickle.dumps(packed))) == texts
