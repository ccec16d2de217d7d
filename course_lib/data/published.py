"""The published data sets in numbers: what a complete download holds. `data_scripts/README.md` says how to get one."""

from __future__ import annotations

PICTURES: dict[str, dict[str, int]] = {  # layout -> split -> pictures
    "gta5": {"all": 24966, "train": 24966},  # Richter et al. 2016
    "synthia": {"all": 9400, "train": 9400},  # Ros et al. 2016, SYNTHIA-RAND-CITYSCAPES
    "cityscapes": {"train": 2975, "val": 500, "test": 1525},  # Cordts et al. 2016, the fine annotations
}
GTA5_OTHER_SIZE = 60  # label maps of another resolution than their picture, by GTA5's own page: they are left out


def count_note(layout: str, split: str, pictures: int, left_out: int = 0) -> str | None:
    """What to say about the number of pictures that can be used, `left_out` that cannot; None where nothing is published.

    >>> count_note("cityscapes", "val", 500), count_note("camvid", "train", 3)
    ('500 pictures, as published.', None)
    >>> count_note("gta5", "train", 24906, left_out=60)
    '24906 pictures; with the 60 that were left out 24966, as published.'
    """
    published = PICTURES.get(layout, {}).get(split)
    if published is None:
        return None
    if pictures == published:
        return f"{published} pictures, as published."
    if pictures + left_out == published:
        return f"{pictures} pictures; with the {left_out} that were left out {published}, as published."
    return (
        f"Warning: the published {layout} has {published} pictures in {split!r}, here are {pictures}. Fine for a part; "
        "otherwise unpack the missing archives (data_scripts/README.md)."
    )
