"""Values of more than 8 bits -> bytes."""

from fractions import Fraction

import numpy as np
import pytest

from course_lib.data.bits import check_bits, depth_note, to_bytes, usual_bits


@pytest.mark.parametrize("bits", [1, 2, 8, 10, 12, 14, 15, 16])
def test_every_value_of_every_depth_is_the_nearest_byte(bits):
    white = 2**bits - 1
    values = np.arange(white + 1, dtype=np.uint16)
    exact = [Fraction(255 * v, white) for v in range(white + 1)]
    assert max(abs(int(y) - x) for y, x in zip(to_bytes(values, bits), exact)) <= Fraction(1, 2)
    assert to_bytes(values[[0, -1]], bits).tolist() == [0, 255]


def test_eight_bits_in_sixteen_are_what_they_are():
    assert np.array_equal(to_bytes(np.arange(256, dtype=np.int32), 8), np.arange(256))


def test_floats_are_the_nearest_byte_and_keep_their_shape():
    values = np.float32([[[0, 0.5 / 255 - 1e-4], [1, 0.5 / 255 + 1e-4]]])
    assert to_bytes(values).tolist() == [[[0, 0], [255, 1]]]


@pytest.mark.parametrize("order", ["<", ">"])
def test_either_order_of_bytes(order):
    assert to_bytes(np.array([1, 256, 65535], dtype=f"{order}u2")).tolist() == [0, 1, 255]


def test_errors_say_which_value_and_how_many_bits_would_do():
    with pytest.raises(ValueError, match="has the value 5000; wanted 0 to 4095, which 12 bits hold. Give bits=13 or more"):
        to_bytes(np.array([1, 5000]), 12)
    with pytest.raises(ValueError, match="has the value 65535; .* Give bits=16, for all pictures"):
        to_bytes(np.array([1, 65535]), 12)
    with pytest.raises(ValueError, match="has the value 65536; .* Scale its values to 0..65535"):
        to_bytes(np.array([1, 65536]), 12)
    for bits in (0, 17, 12.0, True, "12", None):
        with pytest.raises(ValueError, match=f"Got bits={bits!r}, wanted a whole number from 1 to 16.*4095 is white"):
            check_bits(bits)


def test_a_folder_that_uses_few_of_its_bits_is_noted():
    found = [usual_bits(v) for v in (255, 256, 1023, 1024, 4095, 4096, 16383, 16384, 65535)]
    assert found == [8, 10, 10, 12, 12, 14, 14, 16, 16]
    note = depth_note(4000, 16)
    assert "largest value of all 16-bit pictures is 4000" in note and "--bits 12 (in training --set bits=12)" in note
    assert "scaled by 4095" in note
    for largest, bits in ((None, 16), (0, 16), (16384, 16), (65535, 16), (100, 12)):
        assert depth_note(largest, bits) is None, (largest, bits)
