"""A run's own folder for temporary files: made before its start, removed with all that is in it after its end.

It lies where temporary files lie, for the agent's own folder is closed to other accounts. Nobody can guess its name, so
nobody can be there first.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress

import msgspec

from runyard.agent.child import find_account
from runyard.agent.reasons import CannotStart
from runyard.model.ids import RunKey
from runyard.model.wire import Launch

_RM = 'rm -rf -- "$0"'
# Root may remove what a run has closed to itself; another account has to open it first.
_REMOVE = _RM if os.geteuid() == 0 else f'{_RM} || {{ chmod -R u+rwx -- "$0"; {_RM}; }}'


def new_path(run: RunKey) -> str:
    """For one run only."""
    return os.path.join(os.environ.get("TMPDIR") or "/tmp", f"runyard-{run}-{secrets.token_hex(8)}")


def make(path: str | None, launch: Launch) -> Launch:
    """The launch with the folder in its environment, if it is to have one. Raises CannotStart."""
    if path is None:
        return launch
    try:
        os.mkdir(path, 0o700)
        # Whatever the umask is.
        os.chmod(path, 0o700)
        if launch.user is not None or launch.group is not None:
            account = find_account(launch.user, launch.group)
            os.chown(path, -1 if account.uid is None else account.uid, -1 if account.gid is None else account.gid)
    except OSError as error:
        raise CannotStart(f"can't make the folder {path} for temporary files: {error.strerror}") from None
    return msgspec.structs.replace(launch, env=launch.env | {launch.tmpdir: path})


def remove(path: str | None) -> bool:
    """Whether a child has been started that does it: there may be more to remove than the agent has time for."""
    if path is None:
        return False
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return False
    except OSError:
        with suppress(OSError):
            quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
            os.posix_spawn("/bin/sh", ["sh", "-c", _REMOVE, path], {}, file_actions=quiet)
            return True
    return False
