"""dataset.toml: what it may say, and what is said where it is wrong."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from course_lib import cli
from course_lib.data import check, description, layouts, open_dataset
from course_lib.data.patterns import Pattern
from course_lib.labels import CITYSCAPES19, IGNORE, label_space, train_ids
from tests.data.trees import write_image, write_label

PHOTOS = 'pictures = "photos/*.jpg"\nlabels = "masks/*.png"\n'
THREE = "[classes]\nroad = 10\nsky = 20\ncar = 30\n"


def own(root, text=PHOTOS + THREE, count=4):
    """Three classes numbered 10, 20, 30 in the columns of every label, photographs as JPEG."""
    for i in range(count):
        write_image(root / "photos" / f"{i}.jpg", seed=i)
        write_label(root / "masks" / f"{i}.png", np.tile([10, 10, 20, 20, 20, 30, 30, 30], (6, 1)))
    (root / "dataset.toml").write_text(text, encoding="utf-8")
    return root


def first(spec, **options):
    return open_dataset(spec, **options)[0].label[0].tolist()


# ---- what it may say


def test_ids_become_classes_in_the_order_of_the_file(tmp_path):
    root = own(tmp_path)
    space = layouts.default_space("own", root)
    assert space.classes == ("road", "sky", "car") and space.name.startswith("#")
    assert first(f"own:{root}", space=space) == [0, 0, 1, 1, 1, 2, 2, 2]
    assert first(f"own:{root / 'dataset.toml'}", space="cityscapes19") == [0, 0, 10, 10, 10, 13, 13, 13]
    (root / "val.txt").write_text("2.jpg\n", encoding="utf-8")
    assert [pair.name for pair in open_dataset(f"own:{root}", "val", space).pairs] == ["2.jpg"]


def test_several_ids_of_one_class_ignored_ones_and_a_list_as_a_split(tmp_path):
    text = PHOTOS + 'ignore = [20, 99]\n[classes]\nthing = [10, 30]\n[splits]\ntrain = "lists/t.txt"\nval = "odd"\n'
    root = own(tmp_path, text)
    (root / "lists").mkdir()
    (root / "lists" / "t.txt").write_text("3.jpg\n1.jpg\n", encoding="utf-8")
    space = layouts.default_space("own", root)
    assert first(f"own:{root}", space=space) == [0, 0, IGNORE, IGNORE, IGNORE, 0, 0, 0]
    assert [p.name for p in layouts.find_pairs("own", root, "train")] == ["3.jpg", "1.jpg"]
    assert [p.name for p in layouts.find_pairs("own", root, "val")] == ["1.jpg", "3.jpg"]
    assert len(layouts.find_pairs("own", root, "all")) == 4


def test_the_file_may_lie_beside_its_folder(tmp_path):
    root = own(tmp_path / "mine")
    (root / "dataset.toml").rename(tmp_path / "dataset.toml")
    with pytest.raises(FileNotFoundError, match="nor one beside it that says folder = 'mine'.*uda data describe"):
        layouts.find_pairs("own", root)
    (tmp_path / "dataset.toml").write_text('folder = "mine"\n' + PHOTOS + THREE, encoding="utf-8")
    assert len(layouts.find_pairs("own", root)) == len(layouts.find_pairs("own", tmp_path / "dataset.toml")) == 4


def test_a_split_is_a_word_in_a_path(tmp_path):
    for word in ("training", "validation"):
        write_image(tmp_path / word / "images" / "town" / "a_rgb.png")
        write_label(tmp_path / word / "labels" / "town" / "a_ids.png", np.full((6, 8), 3))
    text = 'pictures = "{split}/images/**/*_rgb.png"\nlabels = "{split}/labels/**/*_ids.png"\n[classes]\nroad = 3\n'
    (tmp_path / "dataset.toml").write_text(text, encoding="utf-8")
    assert [p.name for p in layouts.find_pairs("own", tmp_path, "training")] == ["town/a_rgb.png"]
    (tmp_path / "dataset.toml").write_text(text + '[splits]\ntrain = "training"\nval = "validation"\n', encoding="utf-8")
    assert layouts.find_pairs("own", tmp_path, "val")[0].label == tmp_path / "validation/labels/town/a_ids.png"
    with pytest.raises(ValueError, match="no split 'test'; choose one of: 'train', 'val'"):
        layouts.find_pairs("own", tmp_path, "test")


def test_a_pattern_with_two_wildcards_pairs_by_what_both_stand_for(tmp_path):
    for camera, value in (("left", 1), ("right", 2)):
        write_image(tmp_path / camera / "rgb" / "0.png")
        write_label(tmp_path / camera / "mask" / "0.png", np.full((6, 8), value))
    text = 'pictures = "*/rgb/*.png"\nlabels = "*/mask/*.png"\n[classes]\na = 1\nb = 2\n'
    (tmp_path / "dataset.toml").write_text(text, encoding="utf-8")
    dataset = open_dataset(f"own:{tmp_path}", space=layouts.default_space("own", tmp_path))
    assert [(s.name, s.label.unique().item()) for s in dataset] == [("left/rgb/0.png", 0), ("right/rgb/0.png", 1)]


def test_colours_are_read_whether_they_are_stored_as_rgb_or_by_a_palette_or_as_grey(tmp_path):
    colours = np.array([[(128, 64, 128), (0, 0, 0), (70, 70, 70), (70, 70, 70)]], np.uint8)
    write_image(tmp_path / "photos" / "a.jpg", 1, 4)
    text = PHOTOS + 'ignore = ["#000000"]\n[classes]\nroad = "#804080"\nhouse = "#464646"\n'
    for stored in (Image.fromarray(colours), Image.fromarray(colours).quantize(4), Image.fromarray(colours).convert("RGBA")):
        (tmp_path / "masks").mkdir(exist_ok=True)
        stored.save(tmp_path / "masks" / "a.png")
        (tmp_path / "dataset.toml").write_text(text, encoding="utf-8")
        assert first(f"own:{tmp_path}", space=layouts.default_space("own", tmp_path)) == [0, IGNORE, 1, 1]
    Image.fromarray(np.array([[255, 0, 0, 255]], np.uint8)).save(tmp_path / "masks" / "a.png")
    (tmp_path / "dataset.toml").write_text(PHOTOS + '[classes]\nno = "#000000"\nyes = "#ffffff"\n', encoding="utf-8")
    assert first(f"own:{tmp_path}", space=layouts.default_space("own", tmp_path)) == [1, 0, 0, 1]


def test_the_classes_of_known_data_sets_have_a_name(tmp_path):
    root = own(tmp_path, PHOTOS + 'classes = "train ids of cityscapes19"\n')
    for path in (root / "masks").iterdir():
        write_label(path, np.tile([0, 0, 13, 13, 255, 255, 10, 10], (6, 1)))
    assert layouts.default_space("own", root).name == "cityscapes19"
    assert first(f"own:{root}", space="synthia16") == [0, 0, 12, 12, 255, 255, 9, 9]


def test_255_classes_fit_and_the_last_is_not_taken_for_ignored_or_unknown(tmp_path):
    lines = "".join(f"c{i} = {i * 200}\n" for i in range(255))
    root = own(tmp_path, PHOTOS + f"[classes]\n{lines}", count=1)
    ids = np.arange(256, dtype=np.uint16).reshape(16, 16) * 200
    ids[15, 15] = 0
    write_image(root / "photos" / "0.jpg", 16, 16)
    Image.fromarray(ids).save(root / "masks" / "0.png")
    space = layouts.default_space("own", root)
    label = open_dataset(f"own:{root}", space=space)[0].label
    assert space.num_classes == 255 and label.flatten()[:255].tolist() == list(range(255))
    assert check(f"own:{root}", progress=False).ok


def test_bits_are_those_of_the_data_set_unless_others_are_given(tmp_path):
    write_image(tmp_path / "photos" / "a.png")
    Image.fromarray(np.full((6, 8), 4095, np.uint16)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "dataset.toml").write_text('pictures = "photos/*"\nbits = 12\n', encoding="utf-8")
    assert open_dataset(f"own:{tmp_path}", labelled=False)[0].image.min() == 255
    assert open_dataset(f"own:{tmp_path}", labelled=False, bits=15)[0].image.max() < 64


def test_pictures_alone_can_be_a_target_and_nothing_else(tmp_path):
    root = own(tmp_path, 'pictures = "photos/*"\n')
    assert len(open_dataset(f"own:{root}", labelled=False)) == 4
    with pytest.raises(FileNotFoundError, match=r"dataset.toml' has no `labels`: enough for a target"):
        open_dataset(f"own:{root}")


# ---- labels that do not fit


def test_a_wrong_id_is_named_with_its_pixel(tmp_path):
    root = own(tmp_path)
    ids = np.full((6, 8), 10)
    ids[2, 5] = 11
    write_label(root / "masks" / "1.png", ids)
    with pytest.raises(ValueError, match=r"masks.1.png' has ids .*: 11 \(1 pixels\); it has 10 and 20 and 30 and 255.*11 is in "
                       r"column 5, row 2, .*add the id to `classes` or `ignore`"):  # fmt: skip
        open_dataset(f"own:{root}")[1]
    Image.fromarray(ids.astype(np.uint16) * 100).save(root / "masks" / "1.png")
    with pytest.raises(ValueError, match=r"masks.1.png' has ids that this layout does not: 1000 \(47 pixels\), 1100"):
        open_dataset(f"own:{root}")[1]


def test_a_wrong_colour_is_named_with_its_pixel_and_the_nearest_known_one(tmp_path):
    root = own(tmp_path, PHOTOS + '[classes]\nroad = "#804080"\nsky = "#4682b4"\n', count=1)
    colours = np.full((6, 8, 3), (128, 64, 128), np.uint8)
    colours[3, 1] = (70, 131, 180)
    Image.fromarray(colours).save(root / "masks" / "0.png")
    words = (r"masks.0.png' has colours that this data set does not: #4683b4 \(70,131,180\) \(1 pixels; the nearest known "
             r"colour is #4682b4 \(70,130,180\), sky\). The first pixel of .* is in column 1, row 3")  # fmt: skip
    with pytest.raises(ValueError, match=words):
        open_dataset(f"own:{root}")[0]
    (problem,) = check(f"own:{root}", progress=False).problems
    assert problem.kind == "labels with unknown colours"
    assert len(open_dataset(f"own:{own(tmp_path / 'more')}", skip_bad=True)) == 4


def test_labels_saved_as_jpeg_are_refused_with_the_reason(tmp_path):
    root = own(tmp_path)
    Image.open(root / "masks" / "2.png").save(root / "masks" / "2.jpg")
    (root / "masks" / "2.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"wanted '.*2.png'. There is '.*2.jpg', which cannot be used: JPEG stores an "
                       "approximation.*Export the labels again as PNG"):  # fmt: skip
        open_dataset(f"own:{root}")
    (root / "masks" / "2.jpg").rename(root / "masks" / "2.png")
    with pytest.raises(ValueError, match="it is a JPEG file, wanted PNG: other kinds change ids. JPEG stores an approximation"):
        open_dataset(f"own:{root}")[2]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_holds_ids_as_they_are(tmp_path, bits):
    ids = np.arange(8, dtype=np.uint8) % 2**bits
    image = Image.fromarray(np.tile(ids, (6, 1)))
    root = own(tmp_path, PHOTOS + "[classes]\n" + "".join(f"c{i} = {i}\n" for i in range(2**bits)), count=1)
    if bits == 1:
        image = image.point(lambda v: 255 * v).convert("1")
        image.save(root / "masks" / "0.png")
    else:
        (root / "masks" / "0.png").write_bytes(_grey(np.tile(ids, (6, 1)), bits))
    assert first(f"own:{root}", space=layouts.default_space("own", root)) == ids.tolist()


def _grey(ids, bits):
    """A grey PNG of 2 or 4 bits a pixel, by hand: Pillow writes none."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    per_byte = 8 // bits
    packed = sum(ids[:, k::per_byte].astype(int) << (8 - bits * (k + 1)) for k in range(per_byte)).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", ids.shape[1], ids.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# ---- a file that is wrong


TOML = {
    "leaves its folder": ('pictures = "../*.png"', "pattern '../.*': '..' leaves the folder"),
    "absolute": ('pictures = "/data/*.png"', "is no path below the folder"),
    "another disk": ('pictures = "C:/data/*.png"', "is no path below the folder"),
    "backslash": ("pictures = 'a\\*.png'", "divided by /, on Windows too"),
    "folder leaves": ('folder = ".."\npictures = "*"', "`folder` is '..', wanted the name of a folder"),
    "split leaves": ('pictures = "{split}/*"\n[splits]\ntrain = "../x"', "`splits.train` is '../x', wanted what stands for"),
    "question mark": ('pictures = "photos/?.png"', r"wildcards are \* and \*\* alone"),
    "no wildcard": ('pictures = "photos/a.png"', r"the file's name has no \*"),
    "many wildcards": ('pictures = "*/*/*/*/*/*/*"', "more than 6 wildcards"),
    "braces": ('pictures = "{town}/*"', "braces are for {split} alone"),
    "no pictures": (THREE, "`pictures` is missing"),
    "unknown key": ('picture = "*"', "no key `picture`. Did you mean `pictures`"),
    "wildcards differ": ('pictures = "**/*.jpg"\nlabels = "*.png"\n' + THREE, "has 2 wildcards and `labels` has 1"),
    "split once": ('pictures = "{split}/*.jpg"\nlabels = "*.png"\n' + THREE, "`pictures` has {split} and `labels` has not"),
    "JPEG labels": ('pictures = "a/*"\nlabels = "b/*.JPG"\n' + THREE, "`labels` is 'b/.*JPEG stores an approximation.*as PNG"),
    "labels without classes": (PHOTOS, "`labels`, but no `classes`"),
    "256 classes": (PHOTOS + "[classes]\n" + "".join(f"c{i} = {i}\n" for i in range(256)), "has 256 classes, wanted at most"),
    "colour twice": (PHOTOS + '[classes]\na = "#804080"\nb = "#804080"', "colour #804080 is there twice: as 'a' and as 'b'"),
    "drawn twice": (
        PHOTOS + THREE + '[colours]\nroad = "#804080"\nsky = "#804080"', "colour #804080 twice: for 'road' and .*'sky'"
    ),
    "id twice": (PHOTOS + "[classes]\na = [1, 2]\nb = 2", "the id 2 is there twice: as 'a' and as 'b'"),
    "class twice": (PHOTOS + "[classes]\nroad = 1\nroad = 2", r"no TOML .*a name is there twice"),
    "class in two spellings": (PHOTOS + "[classes]\nRoad_side = 1\n'road side' = 2", "'road side' is there twice .*Road_side"),
    "ids and colours": (PHOTOS + '[classes]\na = 1\nb = "#804080"', "has ids and colours"),
    "ignored class": (PHOTOS + "ignore = [1]\n[classes]\na = 1", "class 'a' is ignored, too"),
    "comma in a name": (PHOTOS + '[classes]\n"a, b" = 1', "class 'a, b', wanted .*without comma"),
    "id too large": (PHOTOS + "[classes]\na = 70000", "`classes.a` is 70000, wanted an id from 0 to 65535"),
    "not a colour": (PHOTOS + '[classes]\na = "red"', "`classes.a` is 'red', wanted an id .*a colour such as '#804080'"),
    "unknown classes": (PHOTOS + 'classes = "ids of cityscape"', "'ids of cityscape'.*mean ids of cityscapes"),
    "colour of no class": (PHOTOS + THREE + '[colours]\nrode = "#804080"', "'rode', which is no class. Did you mean 'road'"),
    "bits": ('pictures = "*"\nbits = 17', "bits=17, wanted a whole number from 1 to 16"),
    "pair_by": ('pictures = "*"\npair_by = "name"', "`pair_by` is 'name', wanted 'wildcards' or 'file name'"),
    "no TOML": ("pictures: x", "it is no TOML"),
    "nested": ("a = " + "[" * 3000, "it is nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize("case", TOML)
def test_a_wrong_file_is_named_with_what_is_wrong_and_what_was_wanted(tmp_path, case):
    text, words = TOML[case]
    root = own(tmp_path, text, count=1)
    with pytest.raises(ValueError, match=f"(?s)dataset.toml' cannot be used as the description of a data set: .*{words}"):
        layouts.find_pairs("own", root)


def test_a_file_in_another_encoding_a_huge_one_and_a_link_to_itself_are_errors(tmp_path):
    root = own(tmp_path, count=1)
    file = root / "dataset.toml"
    file.write_bytes('pictures = "fö*.png"'.encode("latin-1"))
    with pytest.raises(ValueError, match="dataset.toml' .* is no UTF-8 text .*Save it as UTF-8"):
        layouts.find_pairs("own", root)
    file.write_text("#" * 2**21, encoding="utf-8")
    with pytest.raises(ValueError, match="more than 1024 kB"):
        layouts.find_pairs("own", root)
    file.write_text(PHOTOS + THREE, encoding="utf-8-sig")  # as some editors save UTF-8
    assert len(layouts.find_pairs("own", root)) == 1
    file.unlink()
    file.symlink_to(file)
    with pytest.raises(OSError, match="Cannot read '.*dataset.toml' .*link"):
        layouts.find_pairs("own", root)


def test_a_link_that_leads_back_is_an_error(tmp_path):
    root = own(tmp_path, 'pictures = "**/*.jpg"\n', count=1)
    (root / "photos" / "again").symlink_to(root)
    with pytest.raises(ValueError, match=r"link '.*again' leads back to .*no end. Remove it"):
        layouts.find_pairs("own", root, labelled=False)


@pytest.mark.parametrize("text, words", [
    (PHOTOS.replace("photos", "fotos") + THREE, "wants the image folder 'fotos/' .*'masks', 'photos'.*dataset.toml': correct"),
    (PHOTOS.replace("*.jpg", "*.png") + THREE, r"No pictures in '.*photos' \(wanted \*.png\).*dataset.toml': correct"),
    (PHOTOS.replace("masks", "labels") + THREE, "no label folder '.*labels'.*dataset.toml': correct its patterns"),
    (PHOTOS.replace("*.png", "*_L.png") + THREE, "4 pictures without label.*wanted '.*0_L.png'.*dataset.toml': correct"),
])  # fmt: skip
def test_a_pattern_without_match_says_what_is_there_and_where_it_stands(tmp_path, text, words):
    root = own(tmp_path, text)
    with pytest.raises(FileNotFoundError, match=f"(?s){words}"):
        layouts.find_pairs("own", root)


def test_a_pattern_cannot_take_long_whatever_the_names_are():
    pattern = Pattern("*a*a*a*a*a*b.png")
    assert pattern.key("a" * 200 + ".png") is None  # would take years if every division were tried
    assert pattern.key("xaaaaayb.png") == ("x", "", "", "", "", "y")
    assert Pattern("**/a/**/*").key("a/" * 2000 + "b.txt") is None


def test_every_shipped_description_is_read_and_none_knows_a_path(tmp_path):
    assert set(description.shipped()) >= {"gta5", "synthia", "cityscapes", "camvid", "acdc", "bdd100k", "dark_zurich", "folder"}
    assert all(found.file is None and found.root is None for found in description.shipped().values())
    for path in description.SETS.glob("*.toml"):
        assert re.match("# .*\n", path.read_text(encoding="utf-8")), "says where its names come from"


PAGE = Path(__file__).resolve().parents[2] / "docs" / "own_data.md"


def test_the_examples_of_the_page_are_read(tmp_path):
    """Each example, beside files with the names that it describes."""
    examples = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    wanted = [
        (("road", "sky", "vehicle"), "photos/0.jpg", "masks/0.png", [[0, 10, 20, 30, 31, 255]], [255, 0, 1, 2, 2, 255]),
        (("road", "building"), "training/images/a/0_rgb.png", "training/labels/a/0_mask.png", None, [255, 0, 1, 1]),
        (CITYSCAPES19.classes, "rgb/a/0.jpg", "ids/a/0.png", [[7, 26, 0]], [0, 13, 255]),
        (CITYSCAPES19.classes, "images/0.jpg", "labels/0_train_id.png", [[0, 13, 255]], [0, 13, 255]),
    ]
    assert len(examples) == len(wanted)
    for number, (text, (classes, picture, label, ids, train)) in enumerate(zip(examples, wanted)):
        root = tmp_path / str(number)
        write_image(root / picture, 1, len(train))
        if ids is None:
            colours = [[(0, 0, 0), (128, 64, 128), (70, 70, 70), (102, 102, 156)]]
            (root / label).parent.mkdir(parents=True)
            Image.fromarray(np.array(colours, np.uint8)).save(root / label)
        else:
            write_label(root / label, ids)
        (root / "dataset.toml").write_text(text, encoding="utf-8")
        space = layouts.default_space("own", root)
        assert space.classes == classes
        (sample,) = open_dataset(f"own:{root}", space=space)
        assert sample.label[0].tolist() == train
        if number == 0:
            assert space.palette[0] == (128, 64, 128) and layouts.bits_of("own", root, 16) == 12


def test_the_page_lists_every_shipped_description():
    rows = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.M)
    assert sorted(rows) == sorted(description.shipped())


# ---- what other files in the folder may not change


def survey(root, split="train", **options):
    pairs, problems = layouts.survey("own", root, split, **options)
    return [(pair.image.name, pair.label and pair.label.name) for pair in pairs], [problem.kind for problem in problems]


def test_halves_do_not_share_a_label(tmp_path):
    """0.jpg is in the even half and 0.png in the odd one: both have the label 0.png."""
    halves = '[splits]\ntrain = "even"\nval = "odd"\n'
    root = own(tmp_path, 'pictures = "photos/*"\nlabels = "masks/*.png"\n' + THREE + halves)
    for i in range(4):
        write_image(root / "photos" / f"{i}.png", seed=i)
    for split in ("train", "val"):
        assert survey(root, split) == ([], ["labels of several pictures"] * 4)
    (root / "one.txt").write_text("0.jpg\n", encoding="utf-8")
    assert survey(root, list_file="one.txt")[0] == [("0.jpg", "0.png")], "a list says which of them it is of"


def test_two_labels_of_one_file_name_are_named(tmp_path):
    root = own(tmp_path, 'pictures = "photos/*.jpg"\nlabels = "masks/**/*.png"\npair_by = "file name"\n' + THREE)
    write_label(root / "masks" / "backup" / "1.png", np.full((6, 8), 10))
    for more in ({}, {"list_file": "list.txt"}):
        (root / "list.txt").write_text("1.jpg\n2.jpg\n", encoding="utf-8")
        pairs, problems = layouts.survey("own", root, "train", **more)
        assert "1.jpg" not in [pair.name for pair in pairs] and "2.jpg" in [pair.name for pair in pairs]
        assert [problem.kind for problem in problems] == ["labels of one file name"]
        assert "backup" in problems[0].message and "2 labels are called '1.png'" in problems[0].message


@pytest.mark.parametrize("pictures, ending", [("*.png", ".png"), ("*", ".jpg"), ("*", ".png"), ("*.jpg", ".jpg")])
def test_labels_beside_the_pictures_are_no_pictures(pictures, ending, tmp_path):
    for i in range(4):
        write_image(tmp_path / f"{i}{ending}", seed=i)
        write_label(tmp_path / f"{i}_mask.png", np.full((6, 8), 10))
    (tmp_path / "dataset.toml").write_text(f'pictures = "{pictures}"\nlabels = "*_mask.png"\n{THREE}', encoding="utf-8")
    wanted = [(f"{i}{ending}", f"{i}_mask.png") for i in range(4)]
    assert survey(tmp_path) == (wanted, [])
    assert [image for image, _ in survey(tmp_path, labelled=False)[0]] == [image for image, _ in wanted]


def test_a_picture_may_fit_the_pattern_of_labels(tmp_path):
    for i in range(4):
        write_image(tmp_path / f"{i}.jpg", seed=i)
        write_label(tmp_path / f"{i}.png", np.full((6, 8), 10))
    (tmp_path / "dataset.toml").write_text(f'pictures = "*.jpg"\nlabels = "*"\n{THREE}', encoding="utf-8")
    assert survey(tmp_path)[0] == [(f"{i}.jpg", f"{i}.png") for i in range(4)]


def test_a_list_of_another_tool_does_not_change_what_the_file_says(tmp_path):
    root = own(tmp_path, PHOTOS + THREE + '[splits]\ntrain = "even"\nval = "odd"\n')
    (root / "train.txt").write_text("0.jpg\n1.jpg\n2.jpg\n3.jpg\n", encoding="utf-8")
    assert [image for image, _ in survey(root)[0]] == ["0.jpg", "2.jpg"]
    assert [image for image, _ in survey(root, list_file="train.txt")[0]] == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]


@pytest.mark.parametrize("classes, ignore, words", [
    ("ids of cityscapes", '["#ffffff"]', "`ignore` has colours, and the labels are 'ids of cityscapes': write ids there"),
    ("colours of camvid32", "[128]", "`ignore` has ids, and the labels are 'colours of camvid32': write colours there"),
])  # fmt: skip
def test_what_is_ignored_is_of_the_kind_of_the_labels(classes, ignore, words, tmp_path):
    root = own(tmp_path, PHOTOS + f'classes = "{classes}"\nignore = {ignore}\n')
    with pytest.raises(ValueError, match=words):
        open_dataset(f"own:{root}")


def test_classes_are_read_as_camvids_whatever_their_case(tmp_path):
    """But for a bridge, which Cityscapes ignores and CamVid has among its buildings."""
    names = ("vegetation", "Vegetation", "Traffic_Light", "traffic light", "Bridge", "bridge")
    found = train_ids(dict(enumerate(names)), label_space("camvid11"))
    classes = [label_space("camvid11").classes[found[i]] for i in range(5)]
    assert classes == ["Tree", "Tree", "SignSymbol", "SignSymbol", "Building"] and found[5] == IGNORE


def test_a_report_is_not_written_over_what_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = own(tmp_path / "set")
    (root / "train.txt").write_text("0.jpg\n", encoding="utf-8")
    for name in ("dataset.toml", "train.txt", "photos/0.jpg", "masks/1.png"):
        before = (root / name).read_bytes()
        with pytest.raises(FileExistsError, match="is read by this command, so it cannot be its output"):
            cli.app(["data", "check", f"own:{root}", "--out", str(root / name), "--replace", "--quiet"], standalone_mode=False)
        assert (root / name).read_bytes() == before
