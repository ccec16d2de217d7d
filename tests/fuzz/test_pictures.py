"""Pictures, label files and lists that are damaged, foreign or wrong: a sample comes, or an error that names the file."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

from course_lib.data import open_dataset
from course_lib.data.description import KEYS
from course_lib.data.layouts import default_space
from course_lib.data.png16 import encode_png16
from tests.data import trees
from tests.fuzz.cases import expected_errors_name, fuzz
from tests.fuzz.changes import damaged

pytestmark = pytest.mark.filterwarnings("ignore")  # of the decoders

LAYOUTS = ("gta5", "cityscapes", "synthia", "camvid")
OWN = {  # data sets of one's own, by their classes
    "own_ids": "[classes]\n" + "".join(f"c{i} = [{i}, {i + 300}]\n" for i in range(19)),
    "own_colours": "[classes]\n" + "".join(f"c{i} = '#{i:02x}{i:02x}{i:02x}'\n" for i in range(19)),
}
OWN_FILES = "pictures = 'images/*'\nlabels = 'labels/*.png'\n"
SIZE = (6, 8)


def encoded(mode: str, size: tuple[int, int], kind: str, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 34, (*size, 3), dtype=np.uint8)
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    if mode in ("I;16", "I", "F"):
        image = Image.fromarray(pixels[..., 0].astype({"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]))
    image = image.convert(mode) if mode not in ("RGB", "I;16", "I", "F") else image
    image.save(buffer, kind)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, more: list[tuple[bytes, bytes]]) -> bytes:
    """A file in good order, check sums and all, whose header may promise what the rows do not hold."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"),
    "GIF": ("L", "P"),
    "BMP": ("1", "L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"),
}
GOOD = {
    f"{kind} {mode} {size}": encoded(mode, size, kind)
    for kind, modes in MODES.items()
    for mode in modes
    for size in (SIZE, (1, 1), (9, 4))
} | {f"PNG 16 bits {c} {v}": encode_png16(np.full((*SIZE, c), v)) for c in (1, 3, 4) for v in (3, 300)}
NAMES = st.sampled_from([name for name in GOOD if str(SIZE) in name or "16 bits" in name] * 3 + list(GOOD))
good = NAMES.map(GOOD.__getitem__)
promised = st.builds(
    png,
    st.sampled_from([0, 1, SIZE[1], 10_000, 2**31 - 1, 2**32 - 1]),
    st.sampled_from([0, 1, SIZE[0], 10_000, 2**31 - 1]),
    st.sampled_from([0, 1, 2, 4, 8, 16, 255]),
    st.sampled_from([0, 2, 3, 4, 6, 7]),
    st.binary(max_size=400),
    st.lists(
        st.tuples(st.sampled_from([b"PLTE", b"tRNS", b"acTL", b"iCCP", b"eXIf", b"tEXt"]), st.binary(max_size=30)), max_size=2
    ),
)
pictures = st.one_of(good, promised, good.flatmap(damaged), good.flatmap(damaged))


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """A data set of three pictures in each layout."""
    folder = tmp_path_factory.mktemp("sets")
    trees.cityscapes(folder / "cityscapes")
    trees.images_and_labels(folder / "gta5", 3)
    trees.images_and_labels(folder / "camvid", 3)
    trees.images_and_labels(folder / "synthia", 3, images="RGB", labels="GT/LABELS")
    for name, classes in OWN.items():
        trees.images_and_labels(folder / name, 3)
        for path in (folder / name / "labels").iterdir():
            Image.fromarray(np.full(SIZE, 7, np.uint8)).save(path)
        (folder / name / "dataset.toml").write_text(OWN_FILES + classes, encoding="utf-8")
    return folder


def opened(roots, layout, **options):
    split = "train" if layout == "cityscapes" else "all"
    name = "own" if layout in OWN else layout
    space = "camvid11" if layout == "camvid" else default_space("own", roots / layout) if layout in OWN else "cityscapes19"
    return open_dataset(f"{name}:{roots / layout}", options.pop("split", split), space, **options)


def is_good(sample) -> bool:
    classes = sample.label[sample.label != 255]
    return (
        (sample.image.dtype, sample.label.dtype) == (torch.uint8, torch.uint8)
        and sample.image.shape == (3, *sample.label.shape)
        and sample.label.numel() > 0
        and bool((classes < 19).all())
    )


@pytest.mark.parametrize("layout", (*LAYOUTS, *OWN))
def test_the_sets_are_good_before_anything_is_damaged(roots, layout):
    assert [is_good(sample) for sample in opened(roots, layout)] == [True] * 3


def try_file(dataset, which, content):
    """Read picture 1 with these bytes as its image or label file; then put the good file back."""
    pair = dataset.pairs[1]
    path = getattr(pair, which)
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        with expected_errors_name(pair.image, pair.label or pair.image):
            sample = dataset[1]
            assert is_good(sample) and sample.name == pair.name
    finally:
        path.write_bytes(whole)
    assert is_good(dataset[0])


@fuzz("pictures", layout=st.sampled_from(LAYOUTS), content=pictures, labelled=st.booleans())
def test_image_files(roots, layout, content, labelled):
    try_file(opened(roots, layout, labelled=labelled), "image", content)


@fuzz("labels", layout=st.sampled_from((*LAYOUTS, *OWN)), content=pictures)
def test_label_files(roots, layout, content):
    try_file(opened(roots, layout), "label", content)


def lines(layout: str, names: list[str]) -> st.SearchStrategy[bytes]:
    """List files: good names in many spellings among everything else."""
    name = st.sampled_from(names)
    line = st.one_of(
        name,
        name.map(lambda n: f"/data/{layout}/{n} /data/{layout}/labels/{n}"),
        name.map(lambda n: n.removesuffix(".png")),
        name.map(lambda n: n.replace("/", "\\")),
        name.map(lambda n: f"../{layout}/{n}"),
        name.map(lambda n: n + "\0"),
        name.map(str.upper),
        st.sampled_from(["", " ", "..", "../..", "/", "/etc/passwd", ".", "~", "\ufeff", "#", "a" * 5000]),
        st.text(max_size=12),
    )
    text = st.builds(lambda found, end: end.join(found), st.lists(line, max_size=6), st.sampled_from(["\n", "\r\n", "\r"]))
    coding = st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"])
    return st.builds(lambda t, c: t.encode(c, "replace"), text, coding) | st.binary(max_size=60)


@st.composite
def listings(draw):
    layout = draw(st.sampled_from(LAYOUTS))
    names = trees.CITYSCAPES_NAMES["train"] if layout == "cityscapes" else [f"{i:05}" for i in range(3)]
    ending = "_leftImg8bit.png" if layout == "cityscapes" else ".png"
    return layout, draw(lines(layout, [n + ending for n in names])), draw(st.booleans())


@fuzz("lists", listing=listings())
def test_list_files(roots, listing):
    layout, content, given = listing
    path = roots / layout / ("mine.lst" if given else "train.txt")
    path.write_bytes(content)
    try:
        with expected_errors_name(path):
            dataset = opened(roots, layout, split="train", **({"list_file": path} if given else {}))
            assert len(dataset) > 0
            assert {pair.name for pair in dataset.pairs} <= {pair.name for pair in opened_without(roots, layout, path)}
            assert all(is_good(sample) for sample in dataset)
    finally:
        path.unlink()


WORDS = st.sampled_from([
    "images/*", "labels/*.png", "images/*.png", "**/*", "*", "../*", "{split}/*", "{split}/**/*.png", "/etc/*", "a\\b*",
    "\0", "#804080", "ids of gta5", "colours of camvid32", "train ids of cityscapes19", "file name", "even", "train.txt", "",
    "labels/*.jpg", "é" * 400,
])  # fmt: skip
VALUES = st.one_of(
    WORDS, WORDS, st.integers(-1, 70_000), st.booleans(), st.floats(), st.lists(st.integers(0, 300), max_size=3),
    st.dictionaries(st.sampled_from(["road", "sky", "Road", "train", "a, b"]), WORDS | st.integers(0, 300), max_size=3),
)  # fmt: skip
TABLES = st.dictionaries(st.sampled_from([*KEYS, "picture", "klasses"]), VALUES, max_size=5)


def as_toml(value) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {as_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


@fuzz("descriptions", content=TABLES, forms=st.lists(TABLES, max_size=2), damage=st.integers(0, 4), cut=st.integers(0, 400))
def test_descriptions(roots, content, forms, damage, cut):
    """Whatever dataset.toml says: a data set within its folder, or an error that names the file."""
    path = roots / "own_ids" / "dataset.toml"
    whole = path.read_bytes()
    content = ({"pictures": "images/*", "labels": "labels/*.png", "classes": {"road": 7}} if damage != 4 else {}) | content
    lines = [f"{key} = {as_toml(value)}" for key, value in content.items() if not forms or key != "forms"]
    for form in forms:
        lines += ["[[forms]]", *(f"{key} = {as_toml(value)}" for key, value in form.items())]
    text = "\n".join(lines)
    path.write_bytes(text.encode()[: cut if damage == 3 else None])
    try:
        with expected_errors_name(path, roots / "own_ids", roots / "own_ids" / "images" / "00000.png"):
            space = default_space("own", roots / "own_ids")
            dataset = open_dataset(f"own:{roots / 'own_ids'}", "train", space or "cityscapes19", labelled=space is not None)
            assert len(dataset) > 0
            assert all(roots / "own_ids" in path.parents for pair in dataset.pairs for path in (pair.image, pair.label) if path)
    finally:
        path.write_bytes(whole)


def opened_without(roots, layout, path):
    content = path.read_bytes()
    path.unlink()
    try:
        return opened(roots, layout).pairs
    finally:
        path.write_bytes(content)
