"""Ways in which files go wrong."""

from hypothesis import strategies as st


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """`whole` cut off, with bytes changed, removed, doubled or put in; or other bytes altogether."""
    place = st.integers(0, len(whole) - 1)
    return st.one_of(
        place.map(lambda end: whole[:end]),
        st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=8).map(lambda spots: overwritten(whole, spots)),
        st.tuples(place, st.binary(max_size=40)).map(lambda cut: whole[: cut[0]] + cut[1] + whole[cut[0] :]),
        st.tuples(place, place).map(lambda ends: whole[: min(ends)] + whole[max(ends) :]),
        place.map(lambda start: whole[start:] + whole),
        st.binary(max_size=200),
        st.binary(max_size=40).map(lambda more: whole + more),
    )


def overwritten(whole: bytes, spots: list[tuple[int, int]]) -> bytes:
    changed = bytearray(whole)
    for place, value in spots:
        changed[place] = value
    return bytes(changed)
