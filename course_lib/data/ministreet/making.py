"""`make`, `verify`, `cached`: MiniStreet as a data set on disk.

Files are written under a temporary name and renamed, so a file that exists is whole. A journal notes the checksums of what
is done, so a killed run goes on where it stopped; the manifest, written last, says that all is there. Nothing is locked: two
processes that make the same folder write the same bytes, and the later rename changes nothing.
"""

import hashlib
import json
import os
import uuid
import zlib
from functools import cache, partial
from pathlib import Path

from tqdm.auto import tqdm

from course_lib.data.cache import cache_that_is_needed
from course_lib.data.processes import cores, in_processes
from course_lib.data.reading import MAX_PIXELS
from course_lib.data.unfinished import JOURNALS, MADE_BY, journal_lines
from course_lib.data.unfinished import manifest_of as _manifest
from course_lib.data.unfinished import read_record as _read
from course_lib.files import digest, write_whole

from .encodings import encode, names
from .looks import DEFAULT_GAP
from .rendering import check, render

LOOK_OF = {"gta5": "game", "synthia": "game", "cityscapes": "camera"}  # what each layout is in the papers
NOT_DRAWING = ("making.py", "crops.py")  # how files are made of pictures: no part of the generator's version
COUNT_AT_MOST, GAP_AT_MOST = 10**6, 10
ALONE = 4  # pictures: fewer are drawn in this process


def scene_seed(seed: int, split: str, index: int) -> int:
    """The seed that `render` takes for picture `index` of a set; no two of (seed, split, index) share one.

    >>> scene_seed(1, "train", 7) - scene_seed(1, "train", 0)
    7
    """
    return (int(seed) << 64) | (zlib.crc32(split.encode()) << 32) | index


def make(
    layout: str,
    out: Path | str,
    count: int,
    seed: int,
    *,
    split: str = "train",
    size: tuple[int, int] = (128, 256),
    gap: float = DEFAULT_GAP,
    look: str | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write `count` scenes to `out` in the folders and encodings of "gta5", "synthia" or "cityscapes"; return `out`.

    Runs on all cores (`workers`), continues where an earlier run stopped, keeps files whose checksum holds and repairs the
    others, may run twice at once. A larger `count` later adds pictures; sets of different seeds or splits share no scene.
    The look is the layout's ("game" for GTA5 and SYNTHIA, "camera" for Cityscapes) unless `look` is given.

    Raises ValueError for arguments that make no sense, or where `out` holds another set or other files: a set of this function
    is known by its manifest or its journal.
    """
    settings = _settings(layout, count, seed, split, size, gap, look)
    out = Path(out).expanduser()
    _refuse_other_set(out, settings, count)
    done = {name: sha for name, sha in _known(out, split).items() if digest(out / name) == sha}
    todo = [i for i in range(count) if not done.keys() >= set(names(layout, split, i))]
    planned = max(count, _refuse_foreign_files(out, layout, split, todo))
    journal = out / JOURNALS / f"{split}-{uuid.uuid4().hex}.jsonl"
    content = {"made_by": MADE_BY, "version": version(), "count": count, "arguments": settings}
    if todo:
        write_whole(_plan(out, split), json.dumps(content | {"count": planned}))
        with open(journal, "a", encoding="utf-8") as notes, tqdm(
            total=count, initial=count - len(todo), disable=not progress, desc=f"MiniStreet {layout} {split}", unit="img"
        ) as bar:
            workers = 1 if len(todo) < ALONE else workers or cores()
            for written in in_processes(partial(write_picture, out, settings), todo, workers):
                done.update(written)
                notes.write(json.dumps(written) + "\n")
                notes.flush()
                bar.update()
    manifest = _manifest(out, split)
    if todo or not manifest.is_file():
        write_whole(manifest, json.dumps(content | {"files": dict(sorted(done.items()))}, indent=1).encode())
    _forget_journals(out, split)
    return out


def verify(out: Path | str) -> int:
    """Check every file of a made folder against its manifest; return how many are right.

    Raises FileNotFoundError without a manifest (the folder was not finished), ValueError naming damaged files.
    """
    out = Path(out).expanduser()
    manifests = sorted(out.glob("manifest*.json"))
    if not manifests:
        raise FileNotFoundError(f"No manifest in {str(out)!r}: the set is not finished. Make it again; it goes on.")
    files = {name: sha for path in manifests for name, sha in _read(path).get("files", {}).items()}
    bad = [name for name, sha in files.items() if digest(out / name) != sha]
    if bad:
        named = ", ".join(bad[:8]) + (" ..." if len(bad) > 8 else "")
        raise ValueError(
            f"{len(bad)} of {len(files)} files in {str(out)!r} are missing or damaged: {named}. "
            "Make the set again with the same arguments; only these are redrawn."
        )
    return len(files)


def cached(layout: str, count: int, seed: int, **options) -> Path:
    """`make` under the user's cache folder, once; options as in `make`. The same call later returns at once.

    The folder's name holds the arguments and the generator's version, so a changed generator makes a new set. Delete the
    folder `cache_folder() / "ministreet"` to win the space back.
    """
    making = {k: options.pop(k) for k in ("workers", "progress") if k in options}
    settings = _settings(layout, count, seed, **{**_DEFAULTS, **options})
    key = hashlib.sha256(json.dumps([settings, version()]).encode()).hexdigest()[:12]
    split = settings["split"]
    with cache_that_is_needed() as folder:
        out = folder / "ministreet" / f"{layout}-{split}-{count}-seed{seed}-{key}"
        if not _looks_finished(out, layout, split, count):
            make(layout, out, count, seed, **{**_DEFAULTS, **options}, **making)
    return out


@cache
def version() -> str:
    """A checksum of the generator's source: another drawing is another version."""
    here = Path(__file__).parent
    sources = b"".join(p.read_bytes().replace(b"\r\n", b"\n") for p in sorted(here.glob("*.py")) if p.name not in NOT_DRAWING)
    return hashlib.sha256(sources).hexdigest()[:12]


# ---- one picture


def write_picture(out: Path, settings: dict, index: int) -> dict[str, str]:
    """Draw and write picture `index`; return the checksum of each of its files."""
    seed = scene_seed(settings["seed"], settings["split"], index)
    scene = render(seed, settings["look"], tuple(settings["size"]), settings["gap"])
    digests = {}
    for name, content in encode(scene, settings["layout"], settings["split"], index).items():
        write_whole(out / name, content, sync=False)
        digests[name] = hashlib.sha256(content).hexdigest()
    return digests


# ---- arguments, manifest, journals

_DEFAULTS = {"split": "train", "size": (128, 256), "gap": DEFAULT_GAP, "look": None}


def _settings(layout, count, seed, split, size, gap, look) -> dict:
    if layout not in LOOK_OF:
        raise ValueError(f"layout = {layout!r}: MiniStreet is written as one of {', '.join(map(repr, LOOK_OF))}.")
    if int(count) != count or not 1 <= count <= COUNT_AT_MOST:
        raise ValueError(f"count = {count!r}: give the number of pictures, 1 to {COUNT_AT_MOST:,}.")
    if not split or Path(split).name != split:
        raise ValueError(f"split = {split!r}: give a plain name such as 'train' or 'val'.")
    look = look or LOOK_OF[layout]
    check(seed, look, size, gap)
    if gap > GAP_AT_MOST:
        raise ValueError(f"gap = {gap!r}: give 0 (looks like the game) to 1 (the full camera look), at most {GAP_AT_MOST}.")
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"size = {tuple(size)}: give at most {MAX_PIXELS / 1e6:.0f} megapixels, which is what is read.")
    size = [int(n) for n in size]
    return {"layout": layout, "seed": int(seed), "split": split, "size": size, "gap": float(gap), "look": look}


def _plan(out: Path, split: str) -> Path:
    """Written before the first picture: a folder that has it was free of other files, and its pictures are ours."""
    return out / JOURNALS / f"{split}.json"


def _refuse_other_set(out: Path, settings: dict, count: int) -> None:
    if out.exists() and not out.is_dir():
        raise ValueError(f"{str(out)!r} is a file; a set is a folder. Give a new or an empty folder.")
    there = sorted(path.name for path in out.iterdir() if path.name != JOURNALS) if out.is_dir() else []
    records = [*sorted(out.glob("manifest*.json")), *sorted((out / JOURNALS).glob("*.json"))]
    ours = [path for path in records if _read(path).get("made_by") == MADE_BY]
    if there and not ours:
        raise ValueError(
            f"The folder {str(out)!r} holds other files ({', '.join(there[:3])}), and no set of MiniStreet. Give --out a new "
            "or an empty folder."
        )
    for path in ours:
        known = _read(path)
        there = known.get("arguments", settings)
        if settings["layout"] == there["layout"] == "cityscapes" and settings["split"] != there["split"]:
            continue  # Cityscapes' splits live side by side
        different = [f"{k} {there.get(k)!r} (now {v!r})" for k, v in settings.items() if there.get(k) != v]
        if known.get("version", version()) != version():
            different.append("another version of the generator")
        if known.get("count", 0) > count and path.parent == out:  # an unfinished set may be finished with fewer
            different.append(f"{known['count']} pictures (now {count})")
        if different:
            raise ValueError(
                f"{str(out)!r} holds another set: {', '.join(different)}. Give another folder, or delete this one first."
            )


def _refuse_foreign_files(out: Path, layout: str, split: str, todo: list[int]) -> int:
    """ValueError where a picture that is to be drawn would overwrite a file that is not of this set; returns how many pictures
    an earlier run planned that did not finish: those are ours, whether its journal names them or not."""
    planned = _read(_plan(out, split)).get("count", 0)
    ours = _known(out, split).keys()  # read after the plan: a run that finishes meanwhile has written its manifest first
    wanted = [name for i in todo if i >= planned for name in names(layout, split, i)]
    if foreign := [name for name in wanted if name not in ours and os.path.lexists(out / name)]:
        raise ValueError(
            f"{str(out / foreign[0])!r} is not of this set and would be overwritten ({len(foreign)} such files). Give --out "
            "another folder, or move them away."
        )
    return planned


def _known(out: Path, split: str) -> dict[str, str]:
    """Checksums from the manifest and from the journals of runs that did not finish."""
    files = dict(_read(_manifest(out, split)).get("files", {}))
    for journal in sorted((out / JOURNALS).glob(f"{split}-*.jsonl")):
        for line in journal_lines(journal, dict[str, str]):
            files.update(line)
    return files


def _forget_journals(out: Path, split: str) -> None:
    for journal in (*(out / JOURNALS).glob(f"{split}-*.jsonl"), _plan(out, split)):
        journal.unlink(missing_ok=True)
    try:
        (out / JOURNALS).rmdir()
    except OSError:
        pass  # never made, or another run still writes there


def _looks_finished(out: Path, layout: str, split: str, count: int) -> bool:
    """A cheap look: the manifest is there, and as many pictures as it says."""
    if not _manifest(out, split).is_file():
        return False
    images = (out / names(layout, split, 0)[0]).parent
    if not images.is_dir():
        return False
    with os.scandir(images) as entries:
        return sum(e.name.endswith(".png") and not e.name.startswith(".") for e in entries) == count
