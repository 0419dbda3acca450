"""The photos that a command names, one after the other: files, folders, patterns, a list on stdin. However many there are, no list of
all of them is made.
"""

import glob
import io
import itertools
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

from common.base.errors import UserError
from common.base.text import in_utf8, printable
from common.data.photos import LINKS, NO_USERS_OWN, is_no_class, why_no_photo

LISTED = "-"  # stands for the paths on stdin
SORTED = 10_000  # entries of a folder that are put in order at once: all of any but a huge one
REASONS = 50  # told apart of what is not used


class Found(NamedTuple):
    """A photo, or a folder that can't be looked into."""

    path: str
    problem: str = ""
    """why it can't be read; empty for what is still to be tried"""


def check_words(words: Sequence[str]) -> None:
    """Errors: `UserError` naming the first of the words that stands for nothing."""
    if not words:
        raise UserError(
            "there is nothing to predict; name photos, folders or patterns, or - for a list of paths on stdin"
        )
    for word in words:
        if word != LISTED and not os.path.lexists(word) and next(_matching(word), None) is None:
            what = "matches no file" if glob.has_magic(word) else "does not exist"
            raise UserError(
                f"{in_utf8(word)} {what}; name photos, folders or patterns, or - for a list of paths on stdin"
            )


def find_photos_of(words: Sequence[str], unused: Counter[str], listed: BinaryIO | None) -> Iterator[Found]:
    """What the words stand for, in their order: a file, whatever its name; the photos in a folder, and in those within it, in the order
    of their names; what a pattern matches, as a shell would; and for `-` each line of `listed`. What lies in folders and is no photo is
    counted in `unused` by its reason.
    """
    for word in words:
        if word == LISTED:
            for line in listed or io.BytesIO():
                if name := os.fsdecode(line.rstrip(b"\r\n")):
                    yield from _at(name, unused)
        elif os.path.lexists(word):
            yield from _at(word, unused)
        else:
            for name in _matching(word):
                yield from _at(name, unused)


def some(found: Iterator[Found], unused: Counter[str]) -> Iterator[Found]:
    """The same. Errors: `UserError` when there is none, with what is there instead."""
    first = next(found, None)
    if first is None:
        raise UserError("; ".join(["there is no photo to predict", *not_used(unused)]))
    return itertools.chain([first], found)


def _matching(pattern: str) -> Iterator[str]:
    return glob.iglob(pattern, recursive=True) if glob.has_magic(pattern) else iter(())


def _at(place: str, unused: Counter[str]) -> Iterator[Found]:
    return _in_folder(place, unused) if os.path.isdir(place) else iter([Found(place)])


def _in_folder(folder: str, unused: Counter[str]) -> Iterator[Found]:
    """Links to folders are not followed: they could lead round in a circle. The folders that are open lie within each other."""
    within = [_entries(folder)]
    while within:
        entry = next(within[-1], None)
        if entry is None:
            within.pop()
        elif isinstance(entry, Found):
            yield entry
        elif not _is_folder(entry):
            if why := why_no_photo(entry.name):
                _count(unused, why)
            else:
                yield Found(entry.path)
        elif is_no_class(entry.name):
            _count(unused, NO_USERS_OWN)
        elif entry.is_symlink():
            _count(unused, LINKS)
        else:
            within.append(_entries(entry.path))


def _entries(folder: str) -> Iterator["os.DirEntry[str] | Found"]:
    try:
        with os.scandir(folder) as entries:
            while some := sorted(itertools.islice(entries, SORTED), key=lambda entry: entry.name):
                yield from some
    except OSError as error:
        yield Found(folder, f"can't be read ({error.strerror or error})")


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _count(unused: Counter[str], why: str) -> None:
    unused[why if why in unused or len(unused) < REASONS else "others"] += 1


def not_used(unused: Counter[str]) -> list[str]:
    """A line, where there is something to say."""
    parts = [f"{count} {printable(why)}" for why, count in unused.most_common(5)]
    more = f", … {unused.total()} in all" * (len(unused) > len(parts))
    return [f"not used in the folders: {', '.join(parts)}{more}"] if parts else []
