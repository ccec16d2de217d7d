"""The data sets that the library describes: small made files with the names and encodings of each, and where those are from."""

import numpy as np
import pytest
from PIL import Image

from course_lib.data import check, layouts, open_dataset
from course_lib.labels import CAMVID_COLOURS, IGNORE
from tests.data.trees import cityscapes, images_and_labels, write_image, write_label


def names(spec, split="train", **options):
    return [pair.name for pair in layouts.find_pairs(*layouts.parse(spec), split, **options)]


# ---- Cityscapes: cityscapesscripts/preparation/createTrainIdLabelImgs.py writes *_labelTrainIds.png beside *_labelIds.png


def only_train_ids(root):
    for path in sorted(root.rglob("*_labelIds.png")):
        write_label(path.with_name(path.name.replace("labelIds", "labelTrainIds")), [[0, 13, 18, 255]])
        path.unlink()
    for path in root.rglob("*_leftImg8bit.png"):
        write_image(path, 1, 4)
    return root


def test_train_ids_alone_are_read_as_they_are_and_said_once(tmp_path, capsys):
    root = only_train_ids(cityscapes(tmp_path))
    for _ in range(2):
        dataset = open_dataset(f"cityscapes:{root}")
        assert len(dataset) == 3 and dataset[0].label[0].tolist() == [0, 13, 18, IGNORE]
    assert capsys.readouterr().err.count("no *_gtFine_labelIds.png: train ids are read as they are, 255 is ignored") == 1
    assert open_dataset(f"cityscapes:{root}", "val", "synthia16")[0].label[0].tolist() == [0, 12, 15, IGNORE]
    write_label(dataset.pairs[0].label, [[7, 19, 26, 33]])
    with pytest.raises(ValueError, match=r"labelTrainIds.png' has ids .*: 19 .*26 .*33 .*; it has 0..18 and 255"):
        dataset[0]


def test_where_both_kinds_are_there_label_ids_are_read(tmp_path, capsys):
    root = cityscapes(tmp_path)
    for path in sorted(root.rglob("*_labelIds.png")):
        write_label(path.with_name(path.name.replace("labelIds", "labelTrainIds")), np.full((6, 8), 5))
    assert open_dataset(f"cityscapes:{root}")[0].label.unique().tolist() == [13]
    assert check(f"cityscapes:{root}", progress=False).ok and "train ids" not in capsys.readouterr().err


def test_without_labels_their_kind_is_not_looked_for(tmp_path, capsys):
    root = only_train_ids(cityscapes(tmp_path))
    assert len(open_dataset(f"cityscapes:{root}", labelled=False)) == 3 and not capsys.readouterr().err


# ---- CamVid: names and colours as zhouyuan888888/Public-datasets-preprocessing, segmentation/README.md, and MathWorks'
# camvidPixelLabelIDs (Melsaftawy98/Semantic-Segmentation, camvidpixellabelID.m) list them


# class of the 11 -> colours, written out a second time from camvidPixelLabelIDs
ELEVEN = {
    "Sky": ["808080"], "Building": ["008040", "800000", "40c000", "400040", "c00080"], "Pole": ["c0c080", "000040"],
    "Road": ["804080", "8000c0", "c00040"], "Pavement": ["0000c0", "40c080", "8080c0"], "Tree": ["808000", "c0c000"],
    "SignSymbol": ["c08080", "808040", "004040"], "Fence": ["404080"],
    "Car": ["400080", "4080c0", "c080c0", "c04080", "804040"], "Pedestrian": ["404000", "c08040", "4000c0", "408040"],
    "Bicyclist": ["0080c0", "c000c0"], "": ["000000"],
}  # fmt: skip


def camvid(root, pictures="701_StillsRaw_full", labels="LabeledApproved_full", count=2):
    """Every picture has all 32 colours, in the order of the alphabet of their names."""
    row = np.array([list(colour.to_bytes(3)) for colour, *_ in CAMVID_COLOURS], np.uint8)[None]
    for i in range(count):
        write_image(root / pictures / f"0001TP_00669{i}.png", 1, 32)
        (root / labels).mkdir(parents=True, exist_ok=True)
        Image.fromarray(row).save(root / labels / f"0001TP_00669{i}_L.png")
    return root


def test_the_32_colours_and_their_11_groups_are_the_published_ones():
    assert len({colour for colour, *_ in CAMVID_COLOURS}) == len({name for _, name, _ in CAMVID_COLOURS}) == 32
    found = {}
    for colour, _, group in CAMVID_COLOURS:
        found.setdefault(group, set()).add(f"{colour:06x}")
    assert found == {group: set(colours) for group, colours in ELEVEN.items()}


def test_camvid_as_released_is_read_to_11_classes_and_to_32(tmp_path):
    root = camvid(tmp_path)
    eleven = open_dataset(f"camvid:{root}", space="camvid11")
    space = eleven.space.classes
    wanted = [space.index(group) if group else IGNORE for _, _, group in CAMVID_COLOURS]
    assert len(eleven) == 1 and eleven[0].label[0].tolist() == wanted
    assert open_dataset(f"camvid:{root}", "val", "camvid32")[0].label[0].tolist() == list(range(32))
    assert check(f"camvid:{root}", progress=False).classes == space
    with pytest.raises(ValueError, match="merge Cityscapes'"):
        open_dataset(f"camvid:{root}")
    with pytest.raises(ValueError, match="others merge what it tells apart"):
        open_dataset(f"camvid:{images_and_labels(tmp_path / 'ids')}", space="camvid32")


def test_an_unknown_colour_of_camvid_names_the_nearest_class(tmp_path):
    root = camvid(tmp_path)
    colours = np.zeros((1, 32, 3), np.uint8)
    colours[0, 7] = (64, 128, 60)
    Image.fromarray(colours).save(root / "LabeledApproved_full" / "0001TP_006690_L.png")
    words = r"0001TP_006690_L.png' has colours .*#40803c .*nearest known colour is #408040 .*, Animal"
    with pytest.raises(ValueError, match=words):
        open_dataset(f"camvid:{root}", space="camvid11")[0]


def test_camvids_other_common_form_has_its_splits_as_folders(tmp_path):
    """train/0001TP_006690.png, train_labels/0001TP_006690_L.png: CamVid on Kaggle (carlolepelaars/camvid)."""
    root = camvid(camvid(tmp_path, "train", "train_labels", 3), "val", "val_labels")
    assert len(names(f"camvid:{root}")) == 3 and len(names(f"camvid:{root}", "val")) == 2
    assert open_dataset(f"camvid:{root}", "val", "camvid32")[0].label[0].tolist() == list(range(32))
    with pytest.raises(ValueError, match="'test' is not there; choose one of: 'train', 'val'"):
        names(f"camvid:{root}", "test")


# ---- GTA5 part by part: NN_images.zip and NN_labels.zip (VisionLearningGroup/taskcv-2017-public,
# segmentation/data/get_gta5.sh), each unpacked into a folder of its own


@pytest.mark.parametrize("inner", ["", "images"])
def test_gta5_in_parts_is_paired_by_the_files_names(tmp_path, inner):
    for i, part in enumerate(("01", "01", "02")):
        write_image(tmp_path / "images" / f"{part}_images" / inner / f"0000{i}.png")
        write_label(tmp_path / "labels" / f"{part}_labels" / f"0000{i}.png", np.full((6, 8), 7 + i))
    dataset = open_dataset(f"gta5:{tmp_path}")
    assert [sample.name for sample in dataset] == ["00000.png", "00001.png", "00002.png"]
    assert [sample.label.unique().item() for sample in dataset] == [0, 1, IGNORE]
    (tmp_path / "gtav_train_list.txt").write_text("00002.png\n", encoding="utf-8")
    assert names(f"gta5:{tmp_path}") == ["00002.png"]


def test_gta5_in_parts_with_a_part_twice_or_a_label_missing_is_an_error(tmp_path):
    for part in ("01", "02"):
        write_image(tmp_path / "images" / f"{part}_images" / f"000{part}.png")
        write_label(tmp_path / "labels" / f"{part}_labels" / f"000{part}.png", np.full((6, 8), 7))
    write_image(tmp_path / "images" / "03_images" / "00001.png")
    with pytest.raises(FileNotFoundError, match="2 pictures are called '00001.png'.*Remove what was unpacked twice"):
        names(f"gta5:{tmp_path}")
    (tmp_path / "images" / "03_images" / "00001.png").rename(tmp_path / "images" / "03_images" / "00003.png")
    with pytest.raises(FileNotFoundError, match="00003.png' has no label"):
        names(f"gta5:{tmp_path}")
    assert len(names(f"gta5:{tmp_path}", labelled=False)) == 3


# ---- BDD100K: open-mmlab/mmsegmentation, projects/bdd100k_dataset/docs/en/user_guides/2_dataset_prepare.md; the first
# release's names from sukasaha/Documents, dataset_note/bdd100k.py


@pytest.mark.parametrize("pictures, labels, ending", [
    ("images/10k", "labels/sem_seg/masks", ".png"), ("seg/images", "seg/labels", "_train_id.png"),
])  # fmt: skip
def test_bdd100k_has_train_ids(tmp_path, pictures, labels, ending):
    for split, name in (("train", "0a0a0b1a-7c39d841"), ("val", "7d2f7975-e0c1c5a7")):
        write_image(tmp_path / pictures / split / f"{name}.jpg", 1, 3)
        write_label(tmp_path / labels / split / f"{name}{ending}", [[0, 18, 255]])
    write_image(tmp_path / pictures / "test" / "ac6d4f42-00000000.jpg")
    assert open_dataset(f"bdd100k:{tmp_path}", "val")[0].label[0].tolist() == [0, 18, IGNORE]
    assert names(f"bdd100k:{tmp_path}", "test", labelled=False) == ["ac6d4f42-00000000.jpg"]


# ---- ACDC: w1oves/Rein, configs/_base_/datasets/night-acdc_1024x1024.py


def acdc(root, kind="labelIds", value=26):
    for condition in ("fog", "night"):
        for split in ("train", "val"):
            name = f"{condition}/{split}/GOPR0475/GOPR0475_frame_000247"
            write_image(root / "rgb_anon" / f"{name}_rgb_anon.png")
            write_image(root / "rgb_anon" / f"{condition}/{split}_ref/GOPR0475/GOPR0475_frame_000247_rgb_ref_anon.png")
            write_label(root / "gt" / f"{name}_gt_{kind}.png", np.full((6, 8), value))
    return root


@pytest.mark.parametrize("kind, value", [("labelIds", 26), ("labelTrainIds", 13)])
def test_acdc_is_read_whole_or_one_condition_of_it(tmp_path, kind, value):
    root = acdc(tmp_path, kind, value)
    assert names(f"acdc:{root}") == [
        f"{condition}/train/GOPR0475/GOPR0475_frame_000247_rgb_anon.png" for condition in ("fog", "night")
    ]
    assert names(f"acdc:{root}", "night-val") == ["GOPR0475/GOPR0475_frame_000247_rgb_anon.png"]
    assert open_dataset(f"acdc:{root}", "fog-train")[0].label.unique().tolist() == [13]
    with pytest.raises(ValueError, match="no split 'fog'; choose one of: 'train', 'val', 'test', 'fog-train'"):
        names(f"acdc:{root}", "fog")


# ---- Dark Zurich: open-mmlab/mmsegmentation, mmseg/datasets/dark_zurich.py and
# configs/pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024_dark-zurich-1920x1080.py


def test_dark_zurich_has_labels_in_val_alone(tmp_path):
    for light in ("night", "twilight", "day"):
        write_image(tmp_path / "rgb_anon" / "train" / light / "GOPR0351" / "GOPR0351_frame_000001_rgb_anon.png")
    write_image(tmp_path / "rgb_anon" / "val" / "night" / "GOPR0356" / "GOPR0356_frame_000321_rgb_anon.png")
    label = tmp_path / "gt" / "val" / "night" / "GOPR0356" / "GOPR0356_frame_000321_gt_labelTrainIds.png"
    write_label(label, np.full((6, 8), 10))
    spec = f"dark_zurich:{tmp_path}"
    assert names(spec, labelled=False) == names(spec, "day", labelled=False) == ["GOPR0351/GOPR0351_frame_000001_rgb_anon.png"]
    assert open_dataset(spec, "val")[0].label.unique().tolist() == [10]
    with pytest.raises(FileNotFoundError, match="no label folder .*Unpack Dark_Zurich_val_anon.zip"):
        names(spec)
