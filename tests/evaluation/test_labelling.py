"""Pseudo-labels as files: thresholds by sorting, the pictures' own sizes, interruptions, and what they are worth."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from course_lib import ranks
from course_lib.data import open_dataset, test_transform
from course_lib.evaluation import PseudoLabelSettings, labelling, write_pseudo_labels
from course_lib.networks import Prediction
from course_lib.pseudo_labels import LabelQuality, density_accuracy
from tests.bounds import bound, close, near
from tests.data.trees import write_image, write_label
from tests.oracles import pseudo_labels as oracle
from tests.processes import together

SIZE = (24, 32)  # of the network's input
OWN = {
    "aachen/a_000": (12, 20),
    "aachen/b_000": (24, 32),
    "bochum/c_000": (30, 22),
    "bochum/d_000": (17, 33),
    "bochum/e_000": (9, 9),
}
RELEASED = PseudoLabelSettings()


class Net(nn.Module):
    """Scores at stride 4, some sure and others not; counts how often it is asked. Class 3 is never predicted."""

    feature_dim, normalisation = 3, "unit"

    def __init__(self, num_classes: int = 19, seed: int = 0):
        super().__init__()
        self.num_classes, self.asked, self.until = num_classes, 0, None
        self.head = nn.Conv2d(3, num_classes, 4, stride=4)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.head.weight.copy_(4 * torch.randn(self.head.weight.shape, generator=generator))
            self.head.bias.copy_(-0.5 * self.head.weight.sum((1, 2, 3)))  # pictures have the mean 1/2
            self.head.bias[3] = -1e4

    def forward(self, image):
        self.asked += 1
        if self.asked == self.until:
            raise KeyboardInterrupt
        logits = self.head(image)
        return Prediction(F.avg_pool2d(image, 4), logits)


def tree(root):
    """Pictures of five sizes with raw ids of buildings, cars and "not counted"."""
    for seed, (name, size) in enumerate(OWN.items()):
        write_image(root / "leftImg8bit" / "train" / f"{name}_leftImg8bit.png", *size, seed=seed)
        ids = np.random.default_rng(seed).choice([0, 7, 11, 26, 33], size)
        write_label(root / "gtFine" / "train" / f"{name}_gtFine_labelIds.png", ids)
    return root


def open_pictures(root, space="cityscapes19", labelled=True):
    return open_dataset(f"cityscapes:{root}", "train", space, test_transform(SIZE, "unit"), labelled)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tree(tmp_path_factory.mktemp("target"))


@pytest.fixture
def pictures(root):
    return open_pictures(root)


def files(folder) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(net, pictures, out, settings=RELEASED, key="net"):
    return write_pseudo_labels(net, pictures, out, settings, key=key, progress=False)


@torch.no_grad()
def upsampled(net, sample, size):
    """max softmax and argmax of the logits at `size`."""
    logits = F.interpolate(net(sample.image[None]).logits, size=size, mode="bilinear", align_corners=True)
    sure, c = logits.softmax(1).max(1)
    return sure[0].numpy(), c[0].numpy()


def sorted_thresholds(net, pictures, label_share=0.4, cap=0.9, C=19):
    """x_c sorted over all pixels of all pictures at the network's size; place round((1 - label_share) n_c), at most the cap."""
    sure, c = (np.concatenate([x.ravel() for x in part]) for part in zip(*(upsampled(net, s, SIZE) for s in pictures)))
    found = []
    for k in range(C):
        x = np.sort(sure[c == k])
        found.append(min(x[min(round((1 - label_share) * len(x)), len(x) - 1)], cap) if len(x) else 0.0)
    return np.array(found, dtype=np.float32)


def labels(folder, pictures):
    return [np.asarray(Image.open((folder / pictures.name_of(i)).with_suffix(".png"))) for i in range(len(pictures))]


# ---- what is written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"label_share": 0.7, "cap": 0.5}, {"label_share": 1.0, "cap": 1.0}])
def test_thresholds_are_those_of_a_sort_over_all_pixels(settings, pictures, tmp_path):
    content = write(Net(), pictures, tmp_path, PseudoLabelSettings(**settings))
    wanted = sorted_thresholds(Net(), pictures, **settings)
    assert len(set(wanted)) > 4
    if settings.get("label_share", 0) < 1:
        assert (wanted == np.float32(settings.get("cap", 0.9))).any()
    close(content["thresholds"], wanted, bound(20, torch.float32))
    assert content["thresholds"][3] == 0  # never predicted


def test_files_are_train_ids_at_the_pictures_own_size(pictures, tmp_path):
    content = write(Net(), pictures, tmp_path)
    t = np.array(content["thresholds"], dtype=np.float32)
    for i, label in enumerate(labels(tmp_path, pictures)):
        sure, c = upsampled(Net(), pictures[i], tuple(OWN.values())[i])
        assert np.array_equal(label, np.where(sure >= t[c], c, 255)) and 0 < (label == 255).mean() < 1
    written = {name for name in files(tmp_path) if name.endswith(".png")}
    assert written == {f"{name}_leftImg8bit.png" for name in OWN}
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("space, C", [("cityscapes19", 19), ("synthia16", 16), ("synthia13", 13)])
def test_the_files_are_palette_pictures_in_every_space(space, C, root, tmp_path):
    """255 has to come back as 255 where there are 16 classes or fewer, for which Pillow writes 4 bits a pixel."""
    pictures = open_pictures(root, space)
    write(Net(C), pictures, tmp_path)
    path = tmp_path / "aachen" / "a_000_leftImg8bit.png"
    with Image.open(path) as image:
        ids, colours = np.asarray(image), np.asarray(image.convert("RGB"))
        assert (image.mode, image.size) == ("P", (20, 12))
    assert (ids == 255).any() and set(np.unique(ids)) <= {*range(C), 255} and len(np.unique(ids)) > 3
    for c in np.unique(ids):
        assert (colours[ids == c] == (pictures.space.palette[c] if c < 255 else (0, 0, 0))).all()


def test_written_labels_are_what_self_training_reads(pictures, tmp_path):
    write(Net(), pictures, tmp_path)
    own = pictures.with_labels(tmp_path)
    assert [own.name_of(i) for i in range(len(own))] == [pictures.name_of(i) for i in range(len(pictures))]
    for i, label in enumerate(labels(tmp_path, pictures)):
        assert np.array_equal(own[i].label.numpy(), label) and torch.equal(own[i].image, pictures[i].image)


def test_one_threshold_for_all_classes(pictures, tmp_path):
    net = Net()
    content = write(net, pictures, tmp_path, PseudoLabelSettings(one_threshold=0.7))
    assert near(content["thresholds"], [0.7] * 19, bound(1, torch.float32)) and net.asked == len(pictures)
    for i, label in enumerate(labels(tmp_path, pictures)):
        sure, c = upsampled(Net(), pictures[i], tuple(OWN.values())[i])
        assert np.array_equal(label, np.where(sure >= np.float32(0.7), c, 255))


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_the_surest_of_every_picture_are_labelled_too(share, pictures, tmp_path):
    """BiDA's static labels: what its class is sure enough of, or what is among the surest of its picture."""
    settings = PseudoLabelSettings(label_share=0.1, cap=1.0, picture_share=share)
    content = write(Net(), pictures, tmp_path, settings)
    t, added = sorted_thresholds(Net(), pictures, 0.1, 1.0), 0
    assert content["settings"]["picture_share"] == share and near(content["thresholds"], t.tolist(), bound(20, torch.float32))
    for i, label in enumerate(labels(tmp_path, pictures)):
        sure, c = upsampled(Net(), pictures[i], tuple(OWN.values())[i])
        surest = np.array(oracle.surest(sure.ravel().tolist(), c.ravel().tolist(), share)).reshape(c.shape)
        of_class = np.where(sure >= t[c], c, 255)
        assert np.array_equal(label, np.where(of_class != 255, of_class, surest))
        added += ((label != 255) & (of_class == 255)).sum()
    assert added > 20 and (share < 1 or content["labelled"] == 1)


def test_any_class_labels_every_pixel_of_which_some_class_is_sure_enough(pictures, tmp_path):
    for name in ("any", "own"):
        write(Net(), pictures, tmp_path / name, PseudoLabelSettings(label_share=0.8, any_class=name == "any"))
    t, leaked = sorted_thresholds(Net(), pictures, 0.8), 0
    for i, (label, own) in enumerate(zip(labels(tmp_path / "any", pictures), labels(tmp_path / "own", pictures))):
        logits = Net()(pictures[i].image[None]).logits.detach()
        up = F.interpolate(logits, size=tuple(OWN.values())[i], mode="bilinear", align_corners=True).softmax(1)
        columns = up[0].movedim(0, -1).reshape(-1, 19).numpy()
        assert label.ravel().tolist() == [oracle.any_class(column, t) for column in columns]
        assert np.array_equal(label[own != 255], own[own != 255])
        leaked += ((label != 255) & (own == 255)).sum()
    assert t[3] == 0 and 4 < leaked < 0.5 * sum(h * w for h, w in OWN.values())  # class 3 is never said: it lets nothing in


# ---- once, twice, half way ------------------------------------------------------------------------------------------


def test_a_network_is_asked_once_if_its_logits_fit_and_twice_or_thrice_if_not(pictures, tmp_path, monkeypatch):
    net = Net()
    write(net, pictures, tmp_path / "kept")
    assert net.asked == len(pictures)
    monkeypatch.setattr(labelling, "CACHE", 0)
    again = Net()
    write(again, pictures, tmp_path / "asked")
    assert again.asked > len(pictures)
    assert files(tmp_path / "kept") == files(tmp_path / "asked")


def test_a_finished_folder_is_returned_without_asking_the_network(pictures, tmp_path):
    first = write(Net(), pictures, tmp_path)
    before, net = files(tmp_path), Net()
    assert write(net, pictures, tmp_path) == first and net.asked == 0
    assert files(tmp_path) == before and first == json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("change", ["key", "settings"])
def test_another_network_or_setting_replaces_the_files_of_the_record(change, pictures, root, tmp_path):
    write(Net(), pictures, tmp_path / "a")
    record = json.loads((tmp_path / "a" / ".labels.json").read_text(encoding="utf-8"))
    record["files"].append("old/left_over.png")  # of another list of pictures
    (tmp_path / "a" / ".labels.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "a" / "old").mkdir()
    (tmp_path / "a" / "old" / "left_over.png").write_bytes(b"of another list of pictures")
    if change == "key":
        write(Net(seed=1), pictures, tmp_path / "a", key="another")
        write(Net(seed=1), pictures, tmp_path / "b", key="another")
    else:
        for name in "ab":
            write(Net(), pictures, tmp_path / name, PseudoLabelSettings(label_share=0.8))
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert not (tmp_path / "a" / "old").exists()


def test_two_pictures_with_one_label_file_are_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("a.jpg", "a.png", "b.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "mine" / name)
    with pytest.raises(ValueError, match="pictures 'a.jpg' and 'a.png' would share the file 'a.png'. Rename one of them"):
        write(Net(), open_dataset(f"folder:{tmp_path / 'mine'}", labelled=False), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("asked", [3, 8, 13])
def test_killed_while_the_network_is_asked_it_goes_on(asked, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(labelling, "CACHE", 0)
    write(Net(), pictures, tmp_path / "whole")
    net = Net()
    net.until = asked
    with pytest.raises(KeyboardInterrupt):
        write(net, pictures, tmp_path / "cut")
    assert net.training and not (tmp_path / "cut" / "labels.json").exists()
    write(Net(), pictures, tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_killed_while_writing_it_keeps_what_is_there(pictures, tmp_path, monkeypatch):
    write(Net(), pictures, tmp_path / "whole")
    write_whole, written = labelling.write_whole, []

    def third_is_the_last(path, *rest, **options):
        if path.suffix == ".png":
            written.append(path)
            if len(written) == 3:
                raise KeyboardInterrupt
        return write_whole(path, *rest, **options)

    monkeypatch.setattr(labelling, "write_whole", third_is_the_last)
    with pytest.raises(KeyboardInterrupt):
        write(Net(), pictures, tmp_path / "cut")
    assert [path.is_file() for path in written] == [True, True, False]
    assert not (tmp_path / "cut" / "labels.json").exists()
    monkeypatch.undo()
    for path in written[:2]:
        os.utime(path, (1, 1))
    write(Net(), pictures, tmp_path / "cut")
    assert [path.stat().st_mtime for path in written[:2]] == [1, 1]  # not written a second time
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_the_network_is_in_evaluation_mode_and_gets_its_mode_back(pictures, tmp_path):
    modes, net = [], Net().train()
    net.register_forward_hook(lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))
    write(net, pictures, tmp_path)
    assert set(modes) == {(False, False)} and net.training


# ---- what they are worth --------------------------------------------------------------------------------------------


def test_density_and_accuracy_are_those_of_the_files(pictures, tmp_path):
    content = write(Net(), pictures, tmp_path)
    flat = torch.from_numpy(np.concatenate([label.ravel() for label in labels(tmp_path, pictures)])).long()
    truth = torch.cat([sample.label.flatten() for sample in pictures])
    density, accuracy = density_accuracy(flat, truth)
    quality = content["quality"]
    assert near((quality["density"], quality["accuracy"]), (density, accuracy), bound(5, torch.float64)) and 0 < accuracy < 1
    wanted = LabelQuality(19).add(flat, truth)
    close(quality["class_density"], wanted.class_density.tolist(), bound(5, torch.float64))
    for found, exact in zip(quality["class_accuracy"], wanted.class_accuracy.tolist()):
        assert found is None and exact != exact or near(found, exact, bound(5, torch.float64))
    assert quality["class_accuracy"][3] is None and quality["class_density"][3] == 0
    close(content["labelled"], (flat != 255).float().mean(), bound(5, torch.float32))
    assert content["labelled"] > density
    close(content["class_share"], [(flat == c).float().mean().item() for c in range(19)], bound(5, torch.float32))
    assert content["pictures"] == 5 and content["classes"] == list(pictures.space.classes)


def test_labels_do_not_depend_on_the_truth_and_without_it_have_no_quality(root, pictures, tmp_path):
    content = write(Net(), pictures, tmp_path / "with")
    blind = write(Net(), open_pictures(root, labelled=False), tmp_path / "without")
    assert blind["quality"] is None and content["quality"] is not None
    assert blind | {"quality": 0} == content | {"quality": 0}
    a, b = files(tmp_path / "with"), files(tmp_path / "without")
    assert {k: v for k, v in a.items() if k != "labels.json"} == {k: v for k, v in b.items() if k != "labels.json"}


def test_a_network_that_is_sure_of_nothing_labels_nothing(pictures, tmp_path):
    content = write(Net(), pictures, tmp_path, PseudoLabelSettings(one_threshold=1.1))
    assert content["labelled"] == 0 and content["quality"]["density"] == 0 and content["quality"]["accuracy"] is None
    json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)  # NaN is no JSON


@pytest.mark.parametrize(
    "settings, came",
    [
        ({"label_share": 0.0}, "label_share is 0.0"),
        ({"label_share": 40}, "label_share is 40"),
        ({"cap": 1.5}, "cap is 1.5"),
        ({"picture_share": 10}, "picture_share is 10"),
        ({"picture_share": -0.1}, "picture_share is -0.1"),
    ],
)
def test_shares_are_shares(settings, came):
    with pytest.raises(ValueError, match=f"{came}; it wants a number from .* to 1.0"):
        PseudoLabelSettings(**settings)


# ---- reading them ---------------------------------------------------------------------------------------------------


def test_a_missing_label_is_named(pictures, tmp_path):
    write(Net(), pictures, tmp_path)
    for name in ("aachen/b_000", "bochum/c_000"):
        (tmp_path / f"{name}_leftImg8bit.png").unlink()
    words = r"2 of 5 pictures of cityscapes:.* no pseudo-label in .*'aachen/b_000_leftImg8bit.png'.*stage `labels`"
    with pytest.raises(ValueError, match=words):
        pictures.with_labels(tmp_path)


def test_ids_that_are_no_class_are_refused(pictures, tmp_path):
    write(Net(), pictures, tmp_path)
    path = tmp_path / "aachen" / "a_000_leftImg8bit.png"
    ids = np.array(Image.open(path))
    ids[0, :2] = 19
    write_label(path, ids)
    with pytest.raises(ValueError, match=r"a_000_leftImg8bit.png' has ids .*19 \(2 pixels\); it has 0..18 and 255"):
        pictures.with_labels(tmp_path)[0]


# ---- two processes --------------------------------------------------------------------------------------------------


class Work:
    def __init__(self, root, out):
        self.root, self.out = root, out

    def __call__(self) -> dict:
        net = Net()
        content = write(net, open_pictures(self.root), self.out)
        again = write(net, open_pictures(self.root), self.out)
        return {"content": json.dumps(content), "same": again == content, "asked": net.asked, "rank": ranks.rank()}


def test_two_processes_each_write_their_part(root, pictures, tmp_path):
    content = write(Net(), pictures, tmp_path / "one")
    results = together(Work(root, tmp_path / "two"), tmp_path)
    assert [result["asked"] for result in results] == [3, 2] and all(result["same"] for result in results)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert all(json.loads(result["content"]) == content for result in results)
