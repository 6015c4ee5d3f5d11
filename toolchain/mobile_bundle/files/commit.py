"""The last step of writing something: give it its name, unless something else has taken the name meanwhile.

The name is checked when the work begins, again right before it is replaced, and once more after the exchange, which is
a single step. Anything unexpected that turns up there gets its name back."""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable
from contextlib import suppress

from mobile_bundle.errors import UserError
from mobile_bundle.files.rename import Place, exchange, rename_new
from mobile_bundle.files.work_folder import WorkFolder


class OutputTaken(UserError):
    """The result is whole, but under another name than asked for: the message says which, and why."""


def give_name(
    work: WorkFolder, source: Place, target: str, there: bool, known: Callable[[Place], bool]
) -> Place | None:
    """Renames `source` to the name `target` in work's parent folder. Returns where what stood there lies now, if that
    is to be removed.

    there: whether something stood at the target when the work began; known: whether what now has a name is that, and
    may be replaced. OutputTaken if anything else stands there, or the parent folder was replaced: then `source` has
    the name TARGET.new (TARGET.new-2, ...) beside it. OSError if the system refuses."""
    wanted = Place(work.folder, target)
    if not _in_place(work):
        raise _keep(source, wanted, f"the folder {work.parent} was moved or replaced", work)
    try:
        if there and wanted.status() is not None:
            with suppress(FileNotFoundError):  # it went away: then the name is free
                return _replace(work, source, wanted, known)
        rename_new(source, wanted)
        return None
    except FileExistsError:
        what = "was changed or replaced" if there else "appeared"
        raise _keep(source, wanted, f"{work.parent / target} {what}", work) from None


def _replace(work: WorkFolder, source: Place, wanted: Place, known: Callable[[Place], bool]) -> Place | None:
    """FileExistsError if something else stands there, FileNotFoundError if nothing does."""
    swapped = checked = False
    try:
        checked = known(wanted)
        if checked:
            checked = False
            swapped = exchange(source, wanted)
            checked = known(source if swapped else wanted)
    finally:
        if swapped and not checked:
            exchange(source, wanted)
    if not checked:
        raise FileExistsError(wanted.name)
    return source if swapped else _replace_in_steps(work, source, wanted, known)


def _replace_in_steps(work: WorkFolder, source: Place, wanted: Place, known: Callable[[Place], bool]) -> Place | None:
    """_replace where names cannot be exchanged: a folder has no name for a moment, a file is not looked at again."""
    status = source.status()
    if status is not None and stat.S_ISREG(status.st_mode):
        os.rename(source.name, wanted.name, src_dir_fd=source.folder, dst_dir_fd=wanted.folder)
        return None
    old = Place(work.folder, work.other_name())
    rename_new(wanted, old)
    try:
        if not known(old):
            raise FileExistsError(wanted.name)
        rename_new(source, wanted)
    except BaseException:
        if source.status() is not None:
            _spare_name(old, wanted, "old") if wanted.status() is not None else rename_new(old, wanted)
        raise
    return old


def _in_place(work: WorkFolder) -> bool:
    try:
        return os.path.samestat(os.stat(work.parent), os.fstat(work.folder))
    except OSError:
        return False


def _keep(source: Place, wanted: Place, why: str, work: WorkFolder) -> OutputTaken:
    """Gives the result a name that is free; the error that says so."""
    kept = work.parent_now() / _spare_name(source, wanted, "new")
    return OutputTaken(f"{why} meanwhile and was left alone; the finished result is {kept}: move it where you want it")


def _spare_name(source: Place, wanted: Place, word: str) -> str:
    """Renames to NAME.WORD beside the wanted name, with a number appended if that is taken. Returns the name."""
    for number in itertools.count(1):
        name = f"{wanted.name}.{word}{f'-{number}' if number > 1 else ''}"
        with suppress(FileExistsError):
            rename_new(source, Place(wanted.folder, name))
            return name
    raise AssertionError("unreachable")
