"""MiniStreet's scenes: the same bytes again, the pairing of the looks, and the geometry against a slow ray caster.

The golden file pins labels exactly and pictures as 4x8 thumbnails within one level: the geometry uses only operations that
IEEE 754 defines to the bit, while exp and power may differ in the last bit from one processor to the next. After a
change that is meant to change pictures, write it again with `python -m tests.data.test_ministreet`.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from course_lib import labels
from course_lib.data.ministreet import LOOKS, Range, StreetGrammar, build, classes, render
from course_lib.data.ministreet.camera import Camera
from course_lib.data.ministreet.draws import Draws
from course_lib.data.ministreet.looks import PALETTES, resolve
from course_lib.data.ministreet.raycast import cast
from course_lib.data.ministreet.rendering import edges, gather, nearest_pixel
from course_lib.data.ministreet.shadows import meets
from course_lib.data.ministreet.solids import BOX, CONVEX, CYLINDER, ELLIPSOID, FACADE, SolidList
from tests.oracles import raycasting

SMALL = (64, 128)
GOLDEN = Path(__file__).with_name("ministreet_golden.json")
GOLDEN_SCENES = [(0, "game"), (0, "camera"), (7, "game"), (12345678901, "camera")]
ROOT = Path(__file__).resolve().parents[2]


def digest(scene) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in scene)).hexdigest()


def golden(seed: int, look: str) -> dict:
    scene = render(seed, look, SMALL)
    blocks = scene.image.reshape(4, 16, 8, 16, 3).mean((1, 3))
    return {"label": hashlib.sha256(scene.label.tobytes()).hexdigest(), "thumbnail": np.round(blocks, 1).tolist()}


# ---- the same bytes


@pytest.mark.parametrize(("seed", "look"), GOLDEN_SCENES)
def test_scenes_are_the_pinned_ones(seed, look):
    pinned, now = json.loads(GOLDEN.read_text(encoding="utf-8"))[f"{look}-{seed}"], golden(seed, look)
    assert now["label"] == pinned["label"]
    assert np.abs(np.array(now["thumbnail"]) - pinned["thumbnail"]).max() <= 1


def test_same_bytes_in_another_order_with_the_global_generators_disturbed():
    first = {seed: digest(render(seed, "camera", SMALL)) for seed in range(4)}
    np.random.seed(3)
    random.seed(4)
    assert {seed: digest(render(seed, "camera", SMALL)) for seed in (2, 0, 3, 1)} == first


def test_same_bytes_in_another_process():
    code = f"""
import hashlib, sys, types
package = types.ModuleType("course_lib.data")  # drawing needs no torch, which course_lib.data itself imports
package.__path__ = [{str(ROOT / "course_lib" / "data")!r}]
sys.modules["course_lib.data"] = package
from course_lib.data.ministreet import render
print(hashlib.sha256(b"".join(part.tobytes() for part in render(5, "camera", {SMALL}))).hexdigest())
"""
    environment = {**os.environ, "PYTHONHASHSEED": "99", "PYTHONPATH": str(ROOT)}
    there = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8")
    assert there.stdout.strip() == digest(render(5, "camera", SMALL)), there.stderr


def test_other_seeds_are_other_streets():
    assert len({digest(render(seed, "game", SMALL)) for seed in range(6)}) == 6


# ---- the two looks


@pytest.mark.parametrize("seed", [0, 3])
def test_gap_zero_is_the_game_byte_for_byte(seed):
    game = render(seed, "game", SMALL)
    assert digest(render(seed, "camera", SMALL, gap=0.0)) == digest(game)
    assert digest(render(seed, "game", SMALL, gap=0.7)) == digest(game)  # the game look knows no gap
    assert digest(render(seed, "camera", SMALL, gap=0.3)) != digest(game)


def test_one_seed_is_one_street_at_every_gap():
    """What is drawn, before the looks are mixed, is the same: the plan of the road, and a small gap moves little."""
    game, camera = (build(11, look, SMALL)[0] for look in ("game", "camera"))
    for number in ("half_width", "bend", "offset", "sidewalks", "crossing", "zebra", "tramway", "strips"):
        assert getattr(game, number) == getattr(camera, number)
    labels_at = [render(11, "camera", SMALL, gap).label for gap in (0.0, 0.05, 1.0)]
    near, far = ((labels_at[0] != other).mean() for other in labels_at[1:])
    assert near < 0.06 and near < far


def test_gap_grades_the_difference():
    images = [render(2, "camera", SMALL, gap).image.astype(float) for gap in (0.0, 0.5, 1.0, 1.2)]
    half, full, beyond = (np.abs(image - images[0]).mean() for image in images[1:])
    assert 0 < half < full < beyond


def test_every_row_of_the_table_has_two_columns_of_one_kind():
    look = resolve(1, 0.5)
    for name, (game, camera) in LOOKS.items():
        sizes = [len(v) if isinstance(v, tuple) else 1 for v in (game, camera)]
        assert sizes[0] == sizes[1], name
        assert all(v.by in LOOKS for v in (game, camera) if isinstance(v, Range) and v.by), name
        assert np.isfinite(getattr(look, name)).all(), name
    for name, (game, camera) in PALETTES.items():
        assert len(game) == len(camera), name


def test_a_turned_grammar_is_obeyed():
    grammar = replace(StreetGrammar(), people=0, riders=0.0, second_rider=0.0, zebra=0.0)
    seen = {i for seed in range(6) for i in np.unique(render(seed, "game", SMALL, grammar=grammar).label)}
    assert not {classes.PERSON, classes.RIDER} & seen


# ---- labels, depth, instances


def test_all_classes_occur_and_are_named_like_cityscapes():
    seen = {i for seed in range(24) for i in np.unique(render(seed, "game", (32, 64)).label).tolist()}
    missing = [labels.CITYSCAPES19.classes[i] for i in range(19) if i not in seen]
    assert not missing
    for i, name in enumerate(labels.CITYSCAPES19.classes):
        assert getattr(classes, name.upper().replace(" ", "_")) == i


def test_arrays_have_the_promised_types():
    scene = render(4, "camera", (33, 70))
    assert scene.image.shape == (33, 70, 3) and scene.image.dtype == np.uint8
    assert scene.label.shape == (33, 70) and scene.label.dtype == np.uint8 and scene.label.max() < 19
    assert scene.depth.shape == (33, 70) and scene.depth.dtype == np.float32
    assert scene.instance.shape == (33, 70) and scene.instance.dtype == np.int16
    assert (np.isinf(scene.depth) == (scene.label == classes.SKY)).all()
    assert (scene.depth > 0).all()


@pytest.mark.parametrize("look", ["game", "camera"])
def test_road_back_projects_onto_its_plane(look):
    """Depth sits at the pixel's centre: the road's pixels come out at y = 0, with no offset anywhere."""
    for seed in range(3):
        scene, (_, camera) = render(seed, look, SMALL), build(seed, look, SMALL)
        _, height, _ = camera.back_project(scene.depth)
        near = (scene.label == classes.ROAD) & (scene.depth < 100)
        assert near.sum() > 500
        assert np.abs(height[near]).max() < 2e-4


def test_an_instance_is_one_thing():
    scene = render(8, "game", SMALL)
    for i in np.unique(scene.instance[scene.instance > 0]):
        kinds = set(np.unique(scene.label[scene.instance == i]))
        assert len(kinds) == 1 or kinds <= {classes.POLE, classes.TRAFFIC_LIGHT, classes.TRAFFIC_SIGN}
    assert (scene.instance[np.isin(scene.label, (classes.SKY, classes.ROAD, classes.SIDEWALK))] == 0).all()


# ---- geometry against the oracle


def solid(kind, rng):
    half = rng.uniform(0.3, 1.2, 3)
    planes = []
    if kind == CONVEX:
        for _ in range(3):
            n = rng.normal(size=3)
            planes.append((*(n / np.linalg.norm(n)), rng.uniform(0.3, 0.7) * half.min()))
    centre = (rng.uniform(-2, 2), rng.uniform(0, 3), rng.uniform(4, 9))
    return centre, tuple(half), rng.uniform(-3, 3), planes


@pytest.mark.parametrize("kind", [BOX, ELLIPSOID, CYLINDER, CONVEX])
def test_each_shape_is_seen_where_the_slow_caster_sees_it(kind):
    rng, camera = np.random.default_rng(kind), Camera(40.0, 32.3, 15.8, 1.5, (32, 64))
    compared = 0
    for _ in range(8):
        centre, half, yaw, planes = solid(kind, rng)
        street = SolidList()
        street.add(kind, centre, half, yaw, 0, 1, (0.5, 0.5, 0.5), FACADE, planes=planes)
        depth = np.full(camera.grid, 1e4, np.float32)
        code, _ = cast(street.table(), camera, depth)

        def slow(r, c, grow=1.0, shape=(centre, half, yaw, planes)):
            centre, half, yaw, planes = shape
            ray = (c / 2 - camera.cx) / camera.focal, -(r / 2 - camera.cy) / camera.focal, 1.0
            larger = [grow * h for h in half], yaw, [(*n, grow * d) for *n, d in planes]
            return raycasting.hit(kind, centre, *larger, (0.0, camera.height, 0.0), ray)

        rows, columns = np.nonzero(code)
        inside = [(r, c) for r, c in zip(rows[::29], columns[::29], strict=True)]
        anywhere = zip(rng.integers(0, camera.grid[0], 60), rng.integers(0, camera.grid[1], 60), strict=True)
        for r, c in [*inside, *anywhere]:
            t, surely = slow(r, c), {slow(r, c, k) is None for k in (0.995, 1.005)}
            if len(surely) == 2:
                continue  # on the outline, where single precision may decide either way
            assert (code[r, c] == 0) == (t is None)
            if t is not None:
                assert depth[r, c] == pytest.approx(t, rel=1e-3)
                compared += 1
    assert compared > 60


def test_the_nearest_solid_wins_whatever_the_order():
    camera = Camera(40.0, 32.0, 16.0, 1.5, (32, 64))
    for order in ([6.0, 9.0], [9.0, 6.0]):
        street = SolidList()
        for z in order:
            street.add(BOX, (0, 1.5, z), (1, 1, 0.5), 0.0, 0, 1, (0.5, 0.5, 0.5))
        depth = np.full(camera.grid, 1e4, np.float32)
        code, _ = cast(street.table(), camera, depth)
        assert depth[32, 64] == pytest.approx(5.5)
        assert order[code[32, 64] - 1] == 6.0


@pytest.mark.parametrize("kind", [BOX, ELLIPSOID, CYLINDER])
def test_a_point_is_in_shadow_when_the_slow_caster_meets_the_solid(kind):
    rng, sun = np.random.default_rng(kind), np.array((0.5, 0.7, -0.51), np.float32)
    dark = 0
    for _ in range(6):
        centre, half, yaw, _ = solid(kind, rng)
        centre = (centre[0], half[1], centre[2])  # stands on the ground
        street = SolidList()
        street.add(kind, centre, half, yaw, 0, 1, (0.5, 0.5, 0.5))
        middle = np.array(centre) - sun * centre[1] / sun[1]  # of the shadow on the ground
        points = middle + rng.uniform(-1.5, 1.5, (80, 3)) * (1, 0, 1)
        points[:, 1] = 0.0
        points = points[np.hypot(*(points - centre)[:, ::2].T) > 1.1 * np.hypot(half[0], half[2])]  # not below the solid
        fast = meets(street.table(), 0, *points.T.astype(np.float32), sun)
        for shadow, point in zip(fast, points, strict=True):
            answers = {
                raycasting.hit(kind, centre, [k * h for h in half], yaw, [], point, sun) is not None for k in (0.99, 1.01)
            }
            if len(answers) == 1:
                assert shadow == answers.pop()
                dark += shadow
    assert dark > 10


def test_sun_makes_shadows_and_they_are_dark():
    """The same game scene is darker where the sun is hidden: some road pixels are much darker than its median."""
    scene = render(2, "game", (128, 256))
    road = scene.image[scene.label == classes.ROAD].mean(1)
    assert 0.02 < (road < 0.7 * np.median(road)).mean() < 0.9 or (road > 1.3 * np.median(road)).mean() > 0.02


# ---- parts


def test_a_fork_shields_the_parent():
    values = [i / 10 for i in range(10)]
    a, b = Draws(values), Draws(values)
    child = a.fork(4)
    child(), child()
    b.fork(4)
    assert a() == b() == 0.4
    with pytest.raises(IndexError, match="larger count"):
        a.fork(99)


def test_colour_of_an_edge_pixel_is_the_weighted_five_and_flat_pixels_take_one():
    surface = np.zeros((5, 7), int)
    surface[:, 4:] = 1  # the second pixel's right corners see something else
    edge, needed = edges(surface)
    assert edge.tolist() == [[False, True, False]] * 2
    index = np.flatnonzero(needed)
    radiance = np.repeat(surface.ravel()[index][:, None], 3, 1).astype(np.float32)
    assert gather(radiance, index, edge)[..., 0].tolist() == [[0.0, 0.25, 1.0]] * 2
    assert nearest_pixel(surface)[0].tolist() == [0, 0, 2, 2]  # each from a pixel that sees the same


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, "gta"), '"game".*"camera"'),
        ((0, "game", (0, 64)), "height, width.*positive"),
        ((0, "game", (32, 64, 3)), "height, width"),
        ((0, "camera", (32, 64), -0.1), "gap = -0.1"),
        ((0, "camera", (32, 64), float("nan")), "gap = nan"),
        ((-1, "game"), "not negative"),
    ],
)
def test_errors_say_what_to_give(arguments, words):
    with pytest.raises(ValueError, match=words):
        render(*arguments)


if __name__ == "__main__":
    pinned = {f"{look}-{seed}": golden(seed, look) for seed, look in GOLDEN_SCENES}
    GOLDEN.write_text(json.dumps(pinned) + "\n", encoding="utf-8")
