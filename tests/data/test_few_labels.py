"""Which pictures are labelled, and which of their pixels: nested, disjoint, the same everywhere; how it is written."""

import hashlib
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from course_lib.data import check, few_labels, open_dataset, prepare, test_transform, train_transform
from course_lib.data.class_counts import class_counts
from course_lib.data.few_labels import Part, balanced_order, behind, random_order, separate, with_few_pixels
from course_lib.data.layouts import find_pairs
from course_lib.data.transforms import resize_label
from course_lib.experiments.parts import Pair, divided, split_of, whole
from course_lib.labels import IGNORE
from tests.data.trees import cityscapes, images_and_labels, write_image, write_label

PICTURES = [f"town{i % 3}/picture_{i:03}.png" for i in range(60)]


def names(root, split, layout="gta5", **how):
    return [pair.name for pair in find_pairs(layout, root, split, **how)]


def test_the_order_is_that_of_a_hash_of_seed_and_name():
    """As another program in another language would compute it."""

    def place(name):
        return hashlib.sha256(f"3\n{name}".encode()).hexdigest()

    shuffled = random.Random(0).sample(PICTURES, len(PICTURES))
    assert random_order(shuffled, 3) == sorted(PICTURES, key=place) != sorted(PICTURES)
    assert random_order(PICTURES, 3) != random_order(PICTURES, 4)
    decomposed, composed = (random_order([name, "a.png", "b.png"], 0) for name in ("e\u0301.png", "\u00e9.png"))
    assert [name[-5:] for name in decomposed] == [name[-5:].replace("\u00e9", "\u0301") for name in composed], "of macOS"


def test_another_process_with_another_hash_seed_chooses_the_same(tmp_path):
    root = images_and_labels(tmp_path, 12)
    found = f"find_pairs('gta5', {str(root)!r}, 'train+labelled=5')"
    words = f"from course_lib.data.layouts import find_pairs; print([pair.name for pair in {found}])"
    for seed in ("1", "2"):
        said = subprocess.run([sys.executable, "-c", words], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
                              capture_output=True, encoding="utf-8", check=True)  # fmt: skip
        assert said.stdout.strip() == str(names(root, "train+labelled=5"))


def test_the_choice_moves_with_the_folder_and_not_with_what_is_beside_it(tmp_path):
    one, two = (images_and_labels(tmp_path / name, 12) for name in ("a", "b/c"))
    assert names(one, "train+labelled=5") == names(two, "train+labelled=5")
    write_image(two / "images" / "later.png")
    write_label(two / "labels" / "later.png", np.full((6, 8), 7))
    assert set(names(two, "train+labelled=5")) - {"later.png"} <= set(names(one, "train+labelled=5")), "one more moves one"


@pytest.mark.parametrize("choice", ["random", "class-balanced"])
@pytest.mark.parametrize("seed", [0, 1])
def test_parts_are_disjoint_whole_and_nested(tmp_path, choice, seed):
    root, before = images_and_labels(tmp_path, 20), set()
    how = f"+seed={seed}+choice={choice}"
    for count in (1, 5, 11, 19):
        labelled, others = (set(names(root, f"train+{part}labelled={count}{how}")) for part in ("", "un"))
        assert len(labelled) == count and not labelled & others and labelled | others == set(names(root, "train"))
        assert before < labelled
        before = labelled
    assert names(root, "train+labelled=20") == names(root, "train")
    assert names(root, f"train+labelled=1/4{how}") == names(root, f"train+labelled=5{how}")
    assert names(root, f"train+labelled=5{how}") == sorted(names(root, f"train+labelled=5{how}")), "in the order of the split"


def test_seeds_choose_others(tmp_path):
    root = images_and_labels(tmp_path, 30)
    assert len({tuple(names(root, f"train+labelled=6+seed={seed}")) for seed in range(5)}) == 5


def test_labels_of_other_pictures_need_not_be_there(tmp_path):
    """The ordinary case: 5 label files and 12 pictures, in a list; or chosen, where the chosen ones have labels."""
    root = images_and_labels(tmp_path, 12)
    chosen = set(names(root, "train+labelled=5"))
    for name in names(root, "train"):
        if name not in chosen:
            (root / "labels" / name).unlink()
    labelled = open_dataset(f"gta5:{root}", "train+labelled=5")
    assert len(labelled) == 5 and labelled.labelled and labelled[0].label.min() == 0
    others = open_dataset(f"gta5:{root}", "train+unlabelled=5", labelled=False)
    assert len(others) == 7 and others[0].label.min() == IGNORE
    with pytest.raises(FileNotFoundError, match="has no label: wanted"):
        open_dataset(f"gta5:{root}", "train+labelled=6")


def test_a_list_file_says_which(tmp_path):
    root = cityscapes(tmp_path / "cs")
    listing = tmp_path / "my+lists" / "two=2.txt"
    listing.parent.mkdir()
    two = ["aachen/aachen_000001_000019_leftImg8bit.png", "bochum/bochum_000000_000313_leftImg8bit.png"]
    listing.write_text(f"\n{two[1]} gtFine/x.png\n/leftImg8bit/train/{two[0]}\n", encoding="utf-8")
    assert names(root, f"train+labelled={listing}", "cityscapes") == two
    assert names(root, f"train+unlabelled={listing}", "cityscapes") == ["aachen/aachen_000000_000019_leftImg8bit.png"]
    (root / "beside.txt").write_text(two[0], encoding="utf-8")
    assert names(root, "train+labelled=beside.txt", "cityscapes") == two[:1], "below the root, too"
    ids = [name.rpartition("/")[2].removesuffix("_leftImg8bit.png") for name in two]  # as published lists have them
    listing.write_text("\n".join(ids), encoding="utf-8")
    assert names(root, f"train+labelled={listing}", "cityscapes") == two
    listing.write_text(f"{two[0]}\naachen/other.png\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"two=2.txt', line 2: no picture 'aachen/other.png' in .*train, which has 3 such as"):
        names(root, f"train+labelled={listing}", "cityscapes")


@pytest.mark.parametrize("text, words", [
    ("+labelled=0", "Labels for 0 pictures: wanted at least 1"),
    ("+labelled=6", "Labels for 6 pictures, and there are 5. Choose 5 or fewer"),
    ("+labelled=0/5", "Labels for 0/5 of the pictures: wanted a share above 0 and at most 1, such as 1/30"),
    ("+labelled=3/2", "a share above 0 and at most 1"),
    ("+labelled=1/0", "a share above 0 and at most 1"),
    ("+labelled=0.5", "Labels for '0.5' pictures: wanted a number such as 20, a share such as 1/30, or a file"),
    ("+labelled=-3", "wanted a number such as 20"),
    ("+labelled=1/2/3", "wanted a number such as 20"),
    ("+labelled=", "wanted a number such as 20"),
    ("+labelled=nowhere.txt", "No list file 'nowhere.txt'"),
    ("+unlabelled=5", "All 5 pictures of .* are labelled: no other is left. Choose fewer"),
    ("+labelled=2+seed=x", "seed of labelled pictures is 'x'; it wants a whole number"),
    ("+labelled=2+seed=1+seed=2", "has seed= twice; give it once"),
    ("+labelled=2+choice=rare", "choice of labelled pictures: it holds 'rare', wanted one of"),
    ("+labelled=2+pixels=0%", "Label pixels are '0%'; wanted 1 .*a share such as 5%, or all"),
    ("+labelled=2+pixels=101%", "Label pixels are '101%'"),
    ("+labelled=2+pixels=2", "Label pixels are '2'"),
    ("+labelled=list.txt+seed=1", "The list 'list.txt' says which pictures are labelled: leave out the seed 1"),
    ("+labelled=list.txt+choice=class-balanced", "leave out choice=class-balanced"),
])  # fmt: skip
def test_what_makes_no_sense_is_an_error_in_words(tmp_path, text, words):
    root = images_and_labels(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        open_dataset(f"gta5:{root}", f"train{text}", labelled="unlabelled" not in text)


def test_a_part_is_written_and_read():
    whole_text = Part(True, "9", 1, "class-balanced", "5%")
    for part in (Part(True, "20"), Part(False, "1/30", 3), Part(True, "a/b+c.txt", pixels="1"), whole_text):
        assert separate(f"train{part.text}") == ("train", part)
    assert separate("train") == ("train", None) and separate("tr+ain") == ("tr+ain", None)


def test_a_data_sets_text_with_a_part(tmp_path):
    assert split_of("cityscapes:/d@x/c@val+labelled=1/30+seed=1", "train") == ("cityscapes:/d@x/c", "val+labelled=1/30+seed=1")
    assert split_of("cityscapes:/cs@+labelled=/lists/a.txt", "train") == ("cityscapes:/cs", "train+labelled=/lists/a.txt")
    assert behind("gta5:/data/a+labelled=b") == ("gta5:/data/a+labelled=b", "")
    folder = tmp_path / "cs@train+labelled=20"
    folder.mkdir()
    assert split_of(f"cityscapes:{folder}", "val") == (f"cityscapes:{folder}", "val"), "a folder of this name is a folder"
    labelled, others = divided("cityscapes:/data/cs@all", "20", 1, "class-balanced", "5%")
    assert labelled == "cityscapes:/data/cs@all+labelled=20+seed=1+choice=class-balanced+pixels=5%"
    assert others == "cityscapes:/data/cs@all+unlabelled=20+seed=1+choice=class-balanced"
    assert whole(others) == "cityscapes:/data/cs@all"
    assert divided("gta5:a", "l.txt", pixels="1", seed=4)[1] == "gta5:a@train+unlabelled=l.txt"
    with pytest.raises(ValueError, match="leave out the seed 0"):
        divided("gta5:a", "l.txt", 0)
    with pytest.raises(ValueError, match="is a part of a data set already. Give the whole"):
        divided(others, "5")
    assert Pair("gta5:a", "gta5:b@val+labelled=2").sets()["target"] == ("gta5:b", "val+labelled=2")


# ---- every class about as often


def test_the_class_that_was_shown_least_comes_next():
    """An oracle that counts again for every picture; 14 classes, so that pictures with 12 and with 13 are alike."""
    there = np.random.default_rng(0).random((40, 14)) < np.linspace(0.95, 0.1, 14)
    there[5] = False
    order, left, shown = [], list(range(40)), [0] * 14
    hashes = [hashlib.sha256(f"1\n{PICTURES[i]}".encode()).hexdigest() for i in range(40)]
    while left:
        able = [c for c in range(14) if any(there[i, c] for i in left)]
        having = left if not able else [i for i in left if there[i, min(able, key=lambda c: (shown[c], c))]]
        best = min(having, key=lambda i: (-min(12, there[i].sum()), hashes[i]))
        left.remove(best)
        order.append(PICTURES[best])
        shown = [n + there[best, c] for c, n in enumerate(shown)]
    assert balanced_order(PICTURES[:40], there * 7, 1) == order and order[-1] == PICTURES[5]
    first = [PICTURES.index(name) for name in order[:5]]
    by_chance = [PICTURES.index(name) for name in random_order(PICTURES[:40], 1)[:5]]
    assert (there[first].sum(0) > 0).sum() > (there[by_chance].sum(0) > 0).sum()


def test_classes_are_counted_once(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    root = images_and_labels(tmp_path / "set", 8)
    first = names(root, "train+labelled=3+choice=class-balanced")
    monkeypatch.setattr("course_lib.data.class_counts.read_label", lambda *how: pytest.fail("counted again"))
    assert names(root, "train+labelled=3+choice=class-balanced") == first
    assert set(names(root, "train+labelled=2+choice=class-balanced", labelled=False)) < set(first)
    (root / "labels").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="no label folder"):
        names(root, "train+labelled=3+choice=class-balanced")
    with pytest.raises(ValueError, match="has no labels to choose pictures by. Leave out the choice class-balanced"):
        names(root / "images", "train+labelled=3+choice=class-balanced", "folder", labelled=False)


# ---- few pixels


def blocks():
    label = np.full((40, 60), IGNORE, dtype=np.uint8)
    label[:20, :30], label[:20, 30:], label[25:, 5:45] = 3, 0, 7
    label[30:38, 50:58] = 3  # a second region of class 3
    return label


@pytest.mark.parametrize("pixels, share", [("1%", 0.01), ("5%", 0.05), ("25%", 0.25), ("100%", 1.0), ("1", None)])
def test_of_each_class_so_many_pixels_keep_their_label(pixels, share):
    label = blocks()
    few = with_few_pixels(label, pixels, 0, "a.png")
    assert few.dtype == np.uint8 and few.shape == label.shape and np.array_equal(label, blocks())
    kept = few != IGNORE
    assert np.array_equal(few[kept], label[kept])
    for c in (0, 3, 7):
        n = (label == c).sum()
        assert (few == c).sum() == (1 if share is None else int(np.ceil(round(share * n, 6))))


def regions(mask):
    """How many connected ones, by a flood fill with a stack."""
    left, found = set(zip(*np.nonzero(mask))), 0
    while left:
        stack, found = [left.pop()], found + 1
        while stack:
            i, j = stack.pop()
            for there in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if there in left:
                    left.remove(there)
                    stack.append(there)
    return found


def test_they_are_connected_and_as_near_as_they_can():
    label = blocks()
    for seed in range(5):
        few = with_few_pixels(label, "5%", seed, "a.png")
        assert [regions(few == c) for c in (0, 7)] == [1, 1] and regions(few == 3) <= 2
    rows, columns = np.nonzero(with_few_pixels(np.zeros((99, 99), np.uint8), "1%", 1, "b.png") == 0)
    assert max(np.ptp(rows), np.ptp(columns)) <= 14, "98 pixels round one: rings of 1, 4, 8, ..., 28, at most 7 steps away"


def test_which_depends_on_seed_and_name_alone(tmp_path):
    drawn = [with_few_pixels(blocks(), "1", seed, name) for seed, name in ((0, "a"), (0, "a"), (1, "a"), (0, "b"))]
    assert np.array_equal(drawn[0], drawn[1])
    assert not any(np.array_equal(drawn[0], other) for other in drawn[2:])
    assert (with_few_pixels(np.full((4, 5), IGNORE, np.uint8), "1", 0, "a") == IGNORE).all()


def test_they_are_drawn_among_those_that_a_smaller_label_keeps(tmp_path, monkeypatch):
    """One pixel of each class would be gone from three quarters of the labels at half the size."""
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    root = images_and_labels(tmp_path, 6, raw_id=7)
    half = tuple(s // 2 for s in open_dataset(f"gta5:{root}", "train")[0].label.shape)
    for transform in (train_transform(half, "imagenet"), test_transform(half, "imagenet", resize_label=True)):
        few = open_dataset(f"gta5:{root}", "train+labelled=4+pixels=1", transform=transform)
        assert [int((sample.label == 0).sum()) for sample in few] == [1] * 4 == few.class_counts[:, 0].tolist()
    few = open_dataset(f"gta5:{root}", "train+labelled=4+pixels=1", transform=test_transform(half, "imagenet"))
    assert few.label_size is None and [int((sample.label == 0).sum()) for sample in few] == [1] * 4
    label, size = blocks(), (15, 90)  # lower and wider
    kept = with_few_pixels(label, "1%", 0, "a.png", size)
    assert np.array_equal(np.unique(kept), np.unique(label)) and (kept != IGNORE).sum() == 3 + 3 + 3
    seen = resize_label(torch.from_numpy(kept), size).numpy()
    assert np.array_equal(np.unique(seen), np.unique(label)), "every class has its pixels where the label is smaller"


def test_a_data_set_with_few_pixels(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    root = images_and_labels(tmp_path, 6, raw_id=7)
    full, few = (open_dataset(f"gta5:{root}", f"train+labelled=4{pixels}") for pixels in ("", "+pixels=25%"))
    assert [pair.name for pair in few.pairs] == [pair.name for pair in full.pairs], "the pixels do not change the pictures"
    for i in range(4):
        expected = with_few_pixels(full[i].label.numpy(), "25%", 0, full.name_of(i))
        assert np.array_equal(few[i].label.numpy(), expected) and (few[i].label == 0).sum() == 12  # of 47
    assert few.class_counts.sum(0)[0] < full.class_counts.sum(0)[0] / 3 and few.mapping and not full.mapping
    assert np.array_equal(few.class_counts, [np.bincount(few[i].label.flatten(), minlength=256)[:19] for i in range(4)])
    assert few.with_labels(root / "labels").part is None, "pseudo-labels are whole"


# ---- everything that opens a set


def test_a_prepared_set_has_the_parts_of_its_originals(tmp_path):
    root = images_and_labels(tmp_path / "set", 9)
    with pytest.raises(ValueError, match="part of a split. Prepare the whole"):
        prepare(f"gta5:{root}", tmp_path / "no", (6, 8), splits=("train+labelled=2",), progress=False)
    prepare(f"gta5:{root}", tmp_path / "small", (6, 8), progress=False, workers=1)
    for part in ("train+labelled=4", "train+unlabelled=4"):
        assert names(tmp_path / "small", part, "prepared") == names(root, part)
    assert check(f"prepared:{tmp_path / 'small'}", "train+labelled=4", progress=False).pictures == 4


def test_counts_of_a_file_that_is_torn_are_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    dataset = open_dataset(f"gta5:{images_and_labels(tmp_path)}")
    counts = class_counts(dataset.pairs, dataset.table, 19)
    (file,) = (tmp_path / "cache" / "class_counts").iterdir()
    file.write_text(json.dumps({"counts": [[1]]}), encoding="utf-8")
    assert np.array_equal(class_counts(dataset.pairs, dataset.table, 19), counts)
    assert few_labels.MANY == 12
