"""The folder of a project, which members and jobs write as well: nothing there is trusted to be what it seems."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from runyard.model.errors import RunyardError
from runyard.project import files
from runyard.project.definition import Project


def set_up(folder: Path, project: Project, account: str | None) -> None:
    """Makes the folder with its project_info.yaml, unless they are there. Blocks.

    It belongs to the account of the operating system as which the project's jobs run, None being the server's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    owner = None if account is None else pwd.getpwnam(account)
    path = folder / files.PROJECT_INFO
    if not os.path.lexists(path):
        # In one piece: members may read at any moment. Members may add to it later.
        fd, draft = tempfile.mkstemp(dir=folder, prefix=f".{files.PROJECT_INFO}.")
        try:
            with open(fd, "w", encoding="utf-8") as file:
                file.write(files.project_info(project))
                os.fchmod(fd, 0o644)
                if owner is not None:
                    os.fchown(fd, owner.pw_uid, owner.pw_gid)
            os.replace(draft, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(draft)
            raise
    if owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def append(path: Path, line: bytes) -> None:
    """Adds to a log. It may be gone, or something else than a file: a log is no reason to stop or to wait."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with suppress(OSError):
        fd = os.open(path, flags, 0o644)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                os.write(fd, line)
        finally:
            os.close(fd)


def read_files(folder: Path) -> dict[str, Any]:
    """The files of the folder that the protocol knows, as data; of one that can't be read, why. Blocks."""
    found: dict[str, Any] = {}
    for kind, names in files.KNOWN_FILES.items():
        for name in names:
            text = _text(folder / name)
            if text is None:
                continue
            try:
                found[kind] = files.read_known(kind, text)
            except RunyardError as error:
                found[kind] = {"error": error.detail}
            break
    return found


def _text(path: Path) -> str | None:
    """None if there is no such file. A link is none: it may lead to what its maker may not read, but the server may."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(fd, encoding="utf-8", errors="replace") as file:
            return file.read(files.MAX_FILE + 1) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    except OSError:
        return None
