"""The id tables, written out a second time from the papers' released tables and compared id by id."""

import numpy as np
import pytest

from course_lib import labels
from course_lib.labels import CAMVID11, CITYSCAPES19, IGNORE, SPACES, SYNTHIA13, SYNTHIA16

# raw id -> train id, everything else 255
CITYSCAPES_TO_19 = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13,
                    27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip  # AdaptSegNet
CITYSCAPES_TO_16 = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 23: 9, 24: 10, 25: 11, 26: 12, 28: 13,
                    32: 14, 33: 15}  # fmt: skip  # ProCA
SYNTHIA_TO_16 = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 1: 9, 10: 10, 17: 11, 8: 12, 19: 13, 12: 14,
                 11: 15}  # fmt: skip  # ProCA
SYNTHIA_TO_19 = {3: 0, 4: 1, 2: 2, 21: 3, 5: 4, 7: 5, 15: 6, 9: 7, 6: 8, 16: 9, 1: 10, 10: 11, 17: 12, 8: 13, 18: 14,
                 19: 15, 20: 16, 12: 17, 11: 18}  # fmt: skip  # BiDA
CITYSCAPES_TO_13 = {7: 0, 8: 1, 11: 2, 19: 3, 20: 4, 21: 5, 23: 6, 24: 7, 25: 8, 26: 9, 28: 10, 32: 11, 33: 12}
SYNTHIA_TO_13 = {3: 0, 4: 1, 2: 2, 15: 3, 9: 4, 6: 5, 1: 6, 10: 7, 17: 8, 8: 9, 19: 10, 12: 11, 11: 12}
CITYSCAPES_TO_CAMVID = {7: 3, 8: 4, 11: 1, 12: 1, 13: 7, 17: 2, 19: 6, 20: 6, 21: 5, 22: 5, 23: 0, 24: 9, 25: 10, 26: 8,
                        27: 8, 28: 8, 31: 8, 32: 10, 33: 10}  # fmt: skip
SYNTHIA_TO_CAMVID = {3: 3, 4: 4, 2: 1, 21: 1, 5: 7, 7: 2, 15: 6, 9: 6, 6: 5, 16: 5, 1: 0, 10: 9, 17: 10, 8: 8, 18: 8,
                     19: 8, 20: 8, 12: 10, 11: 10}  # fmt: skip
TABLES = {
    ("gta5", "cityscapes19"): CITYSCAPES_TO_19,
    ("gta5", "synthia16"): CITYSCAPES_TO_16,
    ("gta5", "synthia13"): CITYSCAPES_TO_13,
    ("gta5", "camvid11"): CITYSCAPES_TO_CAMVID,
    ("cityscapes", "cityscapes19"): CITYSCAPES_TO_19,
    ("cityscapes", "synthia16"): CITYSCAPES_TO_16,
    ("cityscapes", "synthia13"): CITYSCAPES_TO_13,
    ("cityscapes", "camvid11"): CITYSCAPES_TO_CAMVID,
    ("synthia", "cityscapes19"): SYNTHIA_TO_19,
    ("synthia", "synthia16"): SYNTHIA_TO_16,
    ("synthia", "synthia13"): SYNTHIA_TO_13,
    ("synthia", "camvid11"): SYNTHIA_TO_CAMVID,
    ("camvid", "camvid11"): {i: i for i in range(11)},
}


@pytest.mark.parametrize("layout, space", TABLES)
def test_every_one_of_256_ids_is_mapped_as_published(layout, space):
    table = labels.lookup_table(layout, space)
    assert table.dtype == np.uint8
    assert table.tolist() == [TABLES[layout, space].get(raw, 255) for raw in range(256)]


def test_no_pair_of_layout_and_space_is_left_without_a_test():
    pairs = {(layout, space) for layout in ("gta5", "synthia", "cityscapes", "camvid") for space in SPACES}
    for layout, space in pairs - set(TABLES):
        with pytest.raises(ValueError, match="merge.*camvid11"):
            labels.lookup_table(layout, space)


def test_the_classes_stand_in_the_published_order():
    assert " ".join(c.replace(" ", "_") for c in SYNTHIA16.classes) == (
        "road sidewalk building wall fence pole traffic_light traffic_sign vegetation sky person rider car bus "
        "motorcycle bicycle"
    )
    assert CITYSCAPES19.classes[9] == "terrain" and CITYSCAPES19.classes[16:] == ("train", "motorcycle", "bicycle")
    assert set(SYNTHIA16.classes) - set(SYNTHIA13.classes) == {"wall", "fence", "pole"}
    assert CAMVID11.classes[4] == "Pavement"
    assert [space.num_classes for space in SPACES.values()] == [19, 16, 13, 11, 32]


def test_the_subsets_are_the_published_ones():
    without = set(range(19)) - set(labels.subset_ids("16"))
    assert without == {9, 14, 16}  # BiDA: terrain, truck, train
    assert set(labels.subset_ids("16")) - set(labels.subset_ids("13")) == {3, 4, 5}  # wall, fence, pole
    assert labels.subset_ids("16", "synthia16") == tuple(range(16)) and labels.subset_ids("19") == tuple(range(19))
    assert labels.subset_ids("11", "camvid11") == tuple(range(11))
    with pytest.raises(ValueError, match="terrain, truck, train.*cityscapes19"):
        labels.subset_ids("19", "synthia16")
    with pytest.raises(ValueError, match="'17'.*19, 16, 13, 11"):
        labels.subset_ids("17")


@pytest.mark.parametrize("layout, space", [p for p in TABLES if p[1] != "camvid11"] + [("camvid", "camvid11")])
def test_raw_ids_written_and_read_give_the_train_ids_back(layout, space):
    if (layout, space) == ("synthia", "cityscapes19"):
        assert labels.raw_ids(layout, space)[9] == 16  # terrain, which SYNTHIA16 does not count
    written = np.array(labels.raw_ids(layout, space))
    assert labels.lookup_table(layout, space)[written].tolist() == list(range(SPACES[space].num_classes))


def test_a_merged_space_has_no_raw_ids_to_write():
    with pytest.raises(ValueError, match=r"'Building'.*\[11, 12\].*cityscapes19"):
        labels.raw_ids("gta5", "camvid11")


def test_colours_of_well_known_classes_and_black_for_ignored():
    painted = labels.colourise(np.array([[0, 13], [10, IGNORE]], dtype=np.uint8))
    assert painted.dtype == np.uint8
    assert painted.tolist() == [[[128, 64, 128], [0, 0, 142]], [[70, 130, 180], [0, 0, 0]]]
    assert labels.colourise(np.array([[4, 10]]), "camvid11").tolist() == [[[60, 40, 222], [0, 128, 192]]]
    assert all(len(set(space.palette)) == space.num_classes for space in SPACES.values())


@pytest.mark.parametrize("label, words", [
    (np.zeros((1, 2, 2), int), r"\(1, 2, 2\).*\(H, W\).*label\[i\]"),
    (np.zeros((2, 2)), "float64.*argmax"),
    (np.array([[33]]), r"\[33\].*0\.\.18 and 255.*lookup_table"),
])  # fmt: skip
def test_colourise_refuses_what_is_no_label_map(label, words):
    with pytest.raises(ValueError, match=words):
        labels.colourise(label)


def test_unknown_names_offer_the_nearest():
    with pytest.raises(ValueError, match=r"'cityscape'.*mean cityscapes\?"):
        labels.lookup_table("cityscape", "cityscapes19")
    with pytest.raises(ValueError, match="'camvid1'.*mean camvid11"):
        labels.label_space("camvid1")


def test_a_space_without_a_colour_for_each_class_is_refused():
    with pytest.raises(ValueError, match="2 classes and 1 colours"):
        labels.LabelSpace("two", ("a", "b"), ((0, 0, 0),))


def test_a_table_is_the_callers_own():
    labels.lookup_table("gta5", "cityscapes19")[7] = 99
    assert labels.lookup_table("gta5", "cityscapes19")[7] == 0


def test_a_space_of_ones_own_is_the_text_of_its_colours_and_classes():
    space = labels.own_space([("road", (128, 64, 128)), ("Low wall", (0, 0, 1))])
    assert space.name == "#804080 road, #000001 Low wall" and labels.label_space(space.name) == space and space.own
    assert labels.table_between(space.name, labels.own_space([("low_wall", (9, 9, 9))]))[:3].tolist() == [255, 0, 255]
    assert labels.own_space(zip(CITYSCAPES19.classes, CITYSCAPES19.palette)) is CITYSCAPES19 and not CITYSCAPES19.own


@pytest.mark.parametrize("text, words", [
    ("#804080", "wanted '#rrggbb name"), ("#804080 road,#000000 sky", "without comma"), ("#80408 road", "wanted '#rrggbb name"),
    ("#804080 road, #000000 Road", "class 'Road' is there twice"), ("#804080 " + "a" * 65, "wanted 1 to 64 letters"),
    (", ".join(f"#000000 c{i}" for i in range(256)), "256 classes, wanted 1 to 255"), ("#804080 a\nb", "wanted"),
])  # fmt: skip
def test_a_wrong_text_of_classes_says_what_was_wanted(text, words):
    with pytest.raises(ValueError, match=words):
        labels.label_space(text)
