"""What a preparation has done so far, so that a killed one goes on: the settings, and a line for each picture that is whole.

The journal lies in DIR/.journal until the manifest is written. Its lines are believed only where the files have the checksums
that they name.
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from course_lib.data.examine import in_parallel
from course_lib.data.pairs import Pair
from course_lib.data.prepared import MANIFEST, Entry, Settings, files_of, read_manifest
from course_lib.data.storing import bytes_of, time_of
from course_lib.data.unfinished import JOURNALS, SETTINGS, journal_lines, read_record
from course_lib.files import digest, is_temporary, write_whole


class Journal:
    """The journal below the folder `out`."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.folder = out / JOURNALS

    def begin(self, settings: Settings, planned: dict[str, list[Pair]]) -> Journal:
        """Make the folder; ValueError if it holds a set of other settings, or files that no preparation wrote.

        planned: the pictures of each split that will be stored.
        """
        known = self._settings()
        there = sorted(p.name for p in self.out.iterdir() if p.name != JOURNALS) if self.out.is_dir() else []
        if known is None and there:
            raise ValueError(
                f"The folder {str(self.out)!r} holds other files ({', '.join(there[:3])}), and no prepared data set. "
                "Give --out a new or an empty folder."
            )
        asked = asdict(settings)
        if known is not None and known != asked and there:
            different = ", ".join(f"{key} {known.get(key)!r} (now {value!r})" for key, value in asked.items()
                                  if known.get(key) != value)  # fmt: skip
            raise ValueError(
                f"{str(self.out)!r} holds a set that was prepared otherwise: {different}. Give another --out, or delete that "
                "folder first."
            )
        if not (self.folder / SETTINGS).is_file():  # else a run that did not finish may have written what no line names
            for split, pairs in planned.items():
                self._refuse_foreign(split, pairs, settings.images)
        write_whole(self.folder / SETTINGS, json.dumps(asked | {"planned": sum(map(len, planned.values()))}))
        self.lines = open(self.folder / f"{uuid.uuid4().hex}.jsonl", "a", encoding="utf-8")
        return self

    def note(self, split: str, entry: Entry) -> None:
        """A picture is whole."""
        self.lines.write(json.dumps([split, entry]) + "\n")
        self.lines.flush()

    def close(self) -> None:
        """Close its file; what is noted stays."""
        self.lines.close()

    def forget(self) -> None:
        """Remove the journal, which the manifest replaces, and the temporary files of killed runs."""
        self.close()
        began = (self.folder / SETTINGS).stat().st_mtime_ns if (self.folder / SETTINGS).is_file() else 0
        for path in filter(is_temporary, self.out.rglob(".*.tmp")):
            with suppress(OSError):  # a younger one may be another run's
                if path.stat().st_mtime_ns < began:
                    path.unlink()
        for path in [*self.folder.glob("*.jsonl"), self.folder / SETTINGS]:
            path.unlink(missing_ok=True)
        with suppress(OSError):  # another run still writes there
            self.folder.rmdir()

    def done(self, split: str, pairs: list[Pair], images: str, progress: bool) -> dict[str, Entry]:
        """The pictures whose files are there with their checksums, made of originals of the same length and time."""
        known = self._known(split)
        asked = [pair for pair in pairs if pair.name in known and (known[pair.name].label is None) == (pair.label is None)]

        def whole(pair: Pair) -> bool:
            entry = known[pair.name]
            files = zip(files_of(split, pair.name, images), (entry.image, entry.label))
            with suppress(OSError):
                same = bytes_of(pair) == entry.source_bytes and entry.source_time in (None, time_of(pair))
                return same and all(digest(self.out / file) == sha for file, sha in files if sha is not None)
            return False

        right = in_parallel(whole, asked, f"{split}: looking at what is done", progress=progress)
        return {pair.name: known[pair.name] for pair, good in zip(asked, right) if good}

    def _refuse_foreign(self, split: str, pairs: list[Pair], images: str) -> None:
        """ValueError where a picture that is to be stored would overwrite a file that no preparation wrote."""
        known = self._known(split)
        wanted = [file for pair in pairs if pair.name not in known for file in files_of(split, pair.name, images)]
        if foreign := [file for file in wanted if os.path.lexists(self.out / file)]:
            raise ValueError(
                f"{str(self.out / foreign[0])!r} is not of this set and would be overwritten ({len(foreign)} such files). Give "
                "--out another folder, or move them away."
            )

    def _settings(self) -> dict | None:
        if (self.out / MANIFEST).is_file():
            return asdict(read_manifest(self.out).settings)
        written = read_record(self.folder / SETTINGS)
        written.pop("planned", None)
        return written or None

    def _known(self, split: str) -> dict[str, Entry]:
        """From the manifest of an earlier run and the journals of runs that did not finish."""
        known: dict[str, Entry] = {}
        if (self.out / MANIFEST).is_file() and (part := read_manifest(self.out).splits.get(split)):
            known = {entry.name: entry for entry in part.pictures}
        for path in sorted(self.folder.glob("*.jsonl")):
            known |= {entry.name: entry for of, entry in journal_lines(path, tuple[str, Entry]) if of == split}
        return known
