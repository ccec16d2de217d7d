"""Folders on disk -> pairs of files: which pictures, in which order, with which labels, and what is said when not."""

import numpy as np
import pytest

from course_lib.data import layouts
from tests.data.trees import cityscapes, images_and_labels, write_image, write_label


def names(*arguments, **options):
    return [pair.name for pair in layouts.find_pairs(*arguments, **options)]


# ---- where the files are


def test_gta5_is_images_and_labels_of_the_same_name_sorted(tmp_path):
    root = images_and_labels(tmp_path)
    pairs = layouts.find_pairs("gta5", root)
    assert [p.name for p in pairs] == [f"{i:05}.png" for i in range(5)]
    assert pairs[3].image == root / "images" / "00003.png" and pairs[3].label == root / "labels" / "00003.png"


def test_cityscapes_splits_are_folders_and_labels_are_the_id_files(tmp_path):
    root = cityscapes(tmp_path)
    assert names("cityscapes", root, "train") == [
        "aachen/aachen_000000_000019_leftImg8bit.png",
        "aachen/aachen_000001_000019_leftImg8bit.png",
        "bochum/bochum_000000_000313_leftImg8bit.png",
    ]
    (pair,) = layouts.find_pairs("cityscapes", root, "val")
    assert pair.label == root / "gtFine" / "val" / "frankfurt" / "frankfurt_000000_000294_gtFine_labelIds.png"


@pytest.mark.parametrize("inner", [".", "RAND_CITYSCAPES"])
def test_synthia_is_found_from_its_folder_and_from_the_one_above(tmp_path, inner):
    images_and_labels(tmp_path / inner, count=2, images="RGB", labels="GT/LABELS")
    pairs = layouts.find_pairs("synthia", tmp_path)
    assert [p.name for p in pairs] == ["00000.png", "00001.png"]
    assert pairs[0].label == tmp_path / inner / "GT" / "LABELS" / "00000.png"


def test_camvid_in_segnets_form_has_its_own_splits(tmp_path):
    images_and_labels(tmp_path, count=3, images="train", labels="trainannot")
    images_and_labels(tmp_path, count=1, images="test", labels="testannot")
    assert len(names("camvid", tmp_path, "train")) == 3 and len(names("camvid", tmp_path, "test")) == 1
    with pytest.raises(ValueError, match="'val' is not there; choose one of: 'test', 'train'"):
        layouts.find_pairs("camvid", tmp_path, "val")


def test_a_folder_is_pictures_of_any_kind_and_depth_without_labels(tmp_path):
    for name in ("b.jpg", "a.png", "deep/er/c.PNG", ".hidden.png", ".git/d.png"):
        write_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    pairs = layouts.find_pairs("folder", tmp_path, "all")
    assert [(p.name, p.label) for p in pairs] == [("a.png", None), ("b.jpg", None), ("deep/er/c.PNG", None)]


def test_a_jpeg_has_its_label_in_a_png(tmp_path):
    write_image(tmp_path / "images" / "a.jpg")
    write_label(tmp_path / "labels" / "a.png", [[1]])
    assert layouts.find_pairs("camvid", tmp_path, "all")[0].label == tmp_path / "labels" / "a.png"


# ---- splits without folders


def test_pictures_that_share_a_label_are_named_and_left_out_together(tmp_path):
    root = images_and_labels(tmp_path, count=3)
    write_image(root / "images" / "00001.jpg")
    words = r"The pictures '00001.jpg' and '00001.png' share the label '.*00001.png', which can be right for one of them alone"
    with pytest.raises(ValueError, match=words):
        layouts.find_pairs("gta5", root)
    assert len(layouts.find_pairs("gta5", root, labelled=False)) == 4
    pairs, problems = layouts.survey("gta5", root)
    assert [pair.name for pair in pairs] == ["00000.png", "00002.png"]
    assert [problem.kind for problem in problems] == ["labels of several pictures"]
    (root / "wanted.txt").write_text("00000.png\n00001.jpg\n00001.jpg\n", encoding="utf-8")
    assert names("gta5", root, list_file="wanted.txt") == ["00000.png", "00001.jpg", "00001.jpg"]


@pytest.fixture
def case_matters(tmp_path):
    (tmp_path / "probe").touch()
    if (tmp_path / "PROBE").exists():
        pytest.skip("this file system does not tell upper from lower case")
    (tmp_path / "probe").unlink()


@pytest.mark.usefixtures("case_matters")
def test_what_is_there_under_another_case_is_named(tmp_path):
    root = images_and_labels(tmp_path / "GTA5", count=2)
    differ = ": upper and lower case differ"
    with pytest.raises(FileNotFoundError, match=f"No folder '.*gta5'.*There is '.*GTA5'{differ}"):
        layouts.find_pairs("gta5", tmp_path / "gta5")
    (root / "images").rename(root / "Images")
    with pytest.raises(FileNotFoundError, match=f"wants the image folder '.*images', and there is '.*Images'{differ}. R"):
        layouts.find_pairs("gta5", root)
    (root / "Images").rename(root / "images")
    (root / "labels").rename(root / "Labels")
    with pytest.raises(FileNotFoundError, match=f"wants the label folder '.*labels', and there is '.*Labels'{differ}. R"):
        layouts.find_pairs("gta5", root)
    (root / "Labels").rename(root / "labels")
    (root / "labels" / "00001.png").rename(root / "labels" / "00001.PNG")
    with pytest.raises(FileNotFoundError, match=f"wanted '.*00001.png'. There is '.*labels.00001.PNG'{differ}; rename it"):
        layouts.find_pairs("gta5", root)
    (root / "train.txt").write_text("00000.PNG\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"no picture '00000.PNG' .* as '00000.png' \(upper and lower case differ\)"):
        layouts.find_pairs("gta5", root)
    streets = cityscapes(tmp_path / "cs")
    for path in (streets / "leftImg8bit" / "val").rglob("*.png"):
        path.rename(path.with_suffix(".PNG"))
    with pytest.raises(FileNotFoundError, match=f"wants the ending '_leftImg8bit.png' of pictures .*_leftImg8bit.PNG'{differ}"):
        layouts.find_pairs("cityscapes", streets, "val")


def test_camvid_halves_alternate_and_never_share_a_picture(tmp_path):
    root = images_and_labels(tmp_path, count=5)
    assert names("camvid", root, "train") == names("camvid", root, "even") == ["00000.png", "00002.png", "00004.png"]
    assert names("camvid", root, "val") == names("camvid", root, "odd") == ["00001.png", "00003.png"]
    assert len(names("camvid", root, "all")) == 5


@pytest.mark.parametrize("layout", ["gta5", "synthia", "folder"])
def test_sources_train_on_everything_and_have_no_validation_split_of_their_own(tmp_path, layout):
    images, labels = ("RGB", "GT/LABELS") if layout == "synthia" else ("images", "labels")
    root = images_and_labels(tmp_path, images=images, labels=labels)
    if layout == "folder":
        root = root / "images"
    assert len(names(layout, root, "train")) == 5 and len(names(layout, root, "odd")) == 2
    with pytest.raises(ValueError, match="no split 'val'.*val.txt.*'even' and 'odd'"):
        layouts.find_pairs(layout, root, "val")


def test_a_single_picture_has_no_second_half(tmp_path):
    with pytest.raises(ValueError, match="'val'.*empty: 1 picture in all. Choose 'all'"):
        layouts.find_pairs("camvid", images_and_labels(tmp_path, count=1), "val")


@pytest.mark.parametrize("split", ["../train", "..", "", "train/aachen"])
def test_a_split_is_a_name_and_not_a_way_out_of_the_folder(tmp_path, split):
    with pytest.raises(ValueError, match=f"'{split}', wanted a plain name"):
        layouts.find_pairs("cityscapes", cityscapes(tmp_path), split)


# ---- list files


@pytest.mark.parametrize("file", ["train.txt", "gtav_train_list.txt"])
def test_a_published_list_decides_which_pictures_and_their_order(tmp_path, file):
    root = images_and_labels(tmp_path)
    (root / file).write_text("00004.png\n\n00001.png\r\n", encoding="utf-8")
    assert names("gta5", root, "train") == ["00004.png", "00001.png"]
    assert len(names("gta5", root, "all")) == 5  # another split, not in the list


def test_a_list_brings_a_split_that_the_layout_has_not(tmp_path):
    root = images_and_labels(tmp_path)
    (root / "val.txt").write_text("00003.png\n", encoding="utf-8")
    assert names("gta5", root, "val") == ["00003.png"]


def test_a_list_given_by_hand_goes_before_the_one_found(tmp_path):
    root = images_and_labels(tmp_path)
    (root / "train.txt").write_text("00004.png\n", encoding="utf-8")
    (root / "mine.txt").write_text("00002.png\n", encoding="utf-8")
    assert names("gta5", root, list_file=root / "mine.txt") == names("gta5", root, list_file="mine.txt") == ["00002.png"]
    with pytest.raises(FileNotFoundError, match="No list file 'other.txt'"):
        layouts.find_pairs("gta5", root, list_file="other.txt")


@pytest.mark.parametrize("line", [
    "bochum/bochum_000000_000313_leftImg8bit.png",
    "leftImg8bit/train/bochum/bochum_000000_000313_leftImg8bit.png",
    "/data/cityscapes/leftImg8bit/train/bochum/bochum_000000_000313_leftImg8bit.png gtFine/train/some_label.png",
    "bochum\\bochum_000000_000313_leftImg8bit",
])  # fmt: skip
def test_list_lines_may_carry_leading_folders_and_a_second_column(tmp_path, line):
    root = cityscapes(tmp_path)
    (root / "train.txt").write_text(line + "\n", encoding="utf-8")
    assert names("cityscapes", root, "train") == ["bochum/bochum_000000_000313_leftImg8bit.png"]


def test_a_name_with_a_space_is_one_name(tmp_path):
    write_image(tmp_path / "my picture.png")
    (tmp_path / "train.txt").write_text("my picture.png\n", encoding="utf-8")
    assert names("folder", tmp_path) == ["my picture.png"]


def test_a_list_may_be_saved_by_an_editor_that_marks_its_encoding(tmp_path):
    write_image(tmp_path / "zürich.png")
    (tmp_path / "train.txt").write_text("zürich.png\n", encoding="utf-8-sig")
    assert names("folder", tmp_path) == ["zürich.png"]


@pytest.mark.parametrize("line", ["00009.png", "../images/00001.png", "../../etc/passwd", "a/" * 300_000, "\0"])
def test_a_listed_name_that_is_not_there_is_named_with_its_line(tmp_path, line):
    root = images_and_labels(tmp_path)
    (root / "train.txt").write_text(f"00000.png\n{line}\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"^'.*train.txt', line 2: no picture .*such as '00000.png'.*correct the list"):
        layouts.find_pairs("gta5", root)


def test_an_empty_list_is_an_error(tmp_path):
    root = images_and_labels(tmp_path)
    (root / "train.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="train.txt' is empty. Write one name a line, such as '00000.png'"):
        layouts.find_pairs("gta5", root)


# ---- labels


def test_without_labels_no_label_is_looked_for(tmp_path):
    root = cityscapes(tmp_path)
    for path in (root / "gtFine").rglob("*.png"):
        path.unlink()
    assert [p.label for p in layouts.find_pairs("cityscapes", root, "train", labelled=False)] == [None] * 3


def test_a_missing_label_is_named_beside_its_picture(tmp_path):
    root = images_and_labels(tmp_path)
    (root / "labels" / "00003.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"^Picture .*images.00003.png'.*labels.00003.png'.*01_labels.*labelled=False"):
        layouts.find_pairs("gta5", root)
    (root / "train.txt").write_text("00001.png\n", encoding="utf-8")
    assert names("gta5", root) == ["00001.png"]  # the cure that the message offers


def test_several_missing_labels_are_counted_and_the_first_is_named(tmp_path):
    root = images_and_labels(tmp_path)
    for number in (2, 4):
        (root / "labels" / f"{number:05}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"^2 pictures without label, the first: Picture .*images.00002.png'"):
        layouts.find_pairs("gta5", root)


def test_a_label_whose_picture_was_not_unpacked_is_named_and_a_list_is_a_choice(tmp_path):
    root = images_and_labels(tmp_path)
    (root / "images" / "00003.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"^Label .*labels.00003.png' has no picture in .*01_images.zip.*list file"):
        layouts.find_pairs("gta5", root)
    assert len(names("gta5", root, labelled=False)) == 4
    (root / "train.txt").write_text("00001.png\n", encoding="utf-8")
    assert names("gta5", root) == ["00001.png"]


def test_the_coloured_labels_beside_cityscapes_ids_are_no_labels_without_picture(tmp_path):
    root = cityscapes(tmp_path)
    write_label(root / "gtFine" / "val" / "munster" / "munster_000000_000019_gtFine_color.png", [[1]])
    assert len(names("cityscapes", root, "val")) == 1
    write_label(root / "gtFine" / "val" / "munster" / "munster_000000_000019_gtFine_labelIds.png", [[1]])
    with pytest.raises(FileNotFoundError, match="munster.*has no picture.*leftImg8bit_trainvaltest.zip"):
        layouts.find_pairs("cityscapes", root, "val")


def test_a_circle_of_links_is_gone_round_once(tmp_path):
    root = images_and_labels(tmp_path, count=2)
    for folder in ("images", "labels"):
        for name in ("again", "and_again"):
            (root / folder / name).symlink_to(root / folder)
    assert names("gta5", root) == ["00000.png", "00001.png"]


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_empty(tmp_path, monkeypatch):
    from course_lib.data import names as names_module

    root = images_and_labels(tmp_path)
    walk = names_module.os.walk

    def refused(folder, onerror, **options):
        onerror(PermissionError(13, "Permission denied", str(root / "images" / "locked")))
        return walk(folder, onerror=onerror, **options)

    monkeypatch.setattr(names_module.os, "walk", refused)
    with pytest.raises(OSError, match="Cannot list the folder .*locked' .*Permission denied.*permissions"):
        layouts.find_pairs("gta5", root)


def test_a_missing_label_folder_names_the_archive(tmp_path):
    root = cityscapes(tmp_path)
    (root / "gtFine").rename(root / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"no label folder .*gtFine.train'. Unpack gtFine_trainvaltest.zip"):
        layouts.find_pairs("cityscapes", root)


# ---- what is said


def test_a_missing_root_names_the_nearest_folder_that_exists(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No folder .*nowhere.here'.*nearest that exists is .*Playing for Data"):
        layouts.find_pairs("gta5", tmp_path / "nowhere" / "here")


def test_a_root_one_level_too_high_is_noticed(tmp_path):
    cityscapes(tmp_path / "data" / "Cityscapes")
    with pytest.raises(FileNotFoundError, match=r"which has 'Cityscapes'.*Did you mean cityscapes:.*Cityscapes\?"):
        layouts.find_pairs("cityscapes", tmp_path / "data")


def test_a_missing_image_folder_names_the_archive(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"wants the image folder 'images/' .*no folders.*01_images.zip"):
        layouts.find_pairs("gta5", tmp_path)


def test_an_unknown_split_offers_those_that_are_there(tmp_path):
    with pytest.raises(ValueError, match="Split 'tset' is not there; choose one of: 'train', 'val'"):
        layouts.find_pairs("cityscapes", cityscapes(tmp_path), "tset")


def test_an_empty_image_folder_is_an_error(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match=r"No pictures in .*images' \(wanted \*.png or"):
        layouts.find_pairs("camvid", tmp_path)


@pytest.mark.parametrize("spec, words", [
    ("cityscape:/data", "Unknown layout 'cityscape'. Did you mean 'cityscapes'"),
    ("/data/cityscapes", "wanted LAYOUT:PATH.*gta5, synthia, cityscapes, camvid, folder"),
    ("gta5:", "wanted LAYOUT:PATH"),
])  # fmt: skip
def test_a_wrong_spec_says_what_a_spec_is(spec, words):
    with pytest.raises(ValueError, match=words):
        layouts.parse(spec)


def test_a_path_may_hold_a_colon_and_the_home_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert layouts.parse("gta5:C:/data")[1].as_posix() == "C:/data"
    assert layouts.parse("gta5:~/data")[1] == tmp_path / "data"


def test_ids_in_the_small_trees_are_what_the_tests_think(tmp_path):
    from PIL import Image

    root = images_and_labels(tmp_path, raw_id=26)
    assert np.array(Image.open(root / "labels" / "00003.png"))[0].tolist() == [3] + [26] * 7
