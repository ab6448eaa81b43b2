"""Accounts, as the server sets them up: the store's part, the environment's, and what becomes of changes."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import secrets
from pathlib import Path
from typing import Any

from runyard.api.context import Context
from runyard.auth.access_token import Signer
from runyard.auth.accounts import Accounts
from runyard.auth.authenticator import Authenticator, AuthRules
from runyard.auth.environment import FluxAccess, flux_access
from runyard.auth.origin import is_loopback
from runyard.core.inputs import Note
from runyard.model.errors import ConfigError, RunyardError
from runyard.model.secrets import is_secret
from runyard.service.engine import Engine
from runyard.settings import Config
from runyard.store.accounts import AccountStore, Change
from runyard.store.batch import Batch
from runyard.store.store import Store

log = logging.getLogger(__name__)

#: Keys of `meta`: what signs access tokens. It is made once, and never leaves the store.
_KEY = "auth.key"
#: Seconds until the next try, after the store could not be read.
_PAUSE = 5.0


def check_auth(config: Config) -> None:
    """Raises ConfigError if addresses can be reached from elsewhere while anybody may do everything, or if what the
    configuration promises about accounts can't be kept."""
    auth, host = config.auth, next((host for host in _hosts(config) if not is_loopback(host)), None)
    if host is not None and not auth.enabled:
        raise ConfigError(
            f"refusing to listen on {host!r}: without accounts, everybody who reaches this port could start processes "
            "as you. Listen on 127.0.0.1 and reach it through an SSH tunnel (ssh -L 7070:127.0.0.1:7070 HOST), "
            "or set [auth] enabled and make accounts with `runyard user add`"
        )
    if auth.run_as and auth.enabled and os.geteuid() != 0:
        raise ConfigError("[auth] run_as is set: to start jobs as their owners, the server must be root")
    for name in config.agent.pass_env:
        if is_secret(name):
            raise ConfigError(f"agent.pass_env: {name} is a secret of the server's: jobs must not get it")


def _hosts(config: Config) -> list[str]:
    return [config.server.host, *filter(None, [config.doors.modelbox.host])]


async def set_up(config: Config, store: Store, engine: Engine) -> Authenticator:
    """The check of credentials, and the account that the environment asks for.

    Raises ConfigError if other hosts could call, and there is nobody who could come in.
    """
    folder = Path(config.data_dir)
    flux = flux_access(os.environ, lambda file: Path(file).read_text(encoding="utf-8"))
    accounts = AccountStore.beside(store, config.store.url or folder, folder)
    if flux.password:
        await asyncio.to_thread(Accounts(accounts, "FLUX_TOKEN").ensure_admin, flux.user, flux.password, engine.clock())
    if config.auth.enabled:
        _warn(flux)
    rules = AuthRules(
        enabled=config.auth.enabled,
        run_as=config.auth.run_as,
        max_failures=config.auth.max_failures,
        failure_window=config.auth.failure_window,
        shared_secret=flux.secret,
    )

    def emit(type: str, data: dict[str, Any]) -> None:
        engine.put(Note(facts=[(type, data)]))

    signer = Signer(_key(store), config.auth.access_token_lifetime)
    auth = Authenticator(accounts, signer, rules, emit, engine.clock)
    if auth.enabled and not (await auth.directory()).usable:
        hint = "make one with `runyard user add NAME --role admin`"
        host = next((host for host in _hosts(config) if not is_loopback(host)), None)
        if host is not None:
            raise ConfigError(f"refusing to listen on {host!r}: there is no account yet; {hint}")
        log.warning("[auth] is enabled, and there is no account yet: nobody can come in; %s", hint)
    return auth


def _warn(flux: FluxAccess) -> None:
    for name in flux.weak:
        log.warning("%s is short, or one that documents have published: everybody can guess it. Choose another", name)


def _key(store: Store) -> bytes:
    text = store.meta(_KEY)
    if text is None:
        text = base64.b64encode(secrets.token_bytes(32)).decode()
        batch = Batch()
        batch.set_meta(_KEY, text)
        store.commit(batch)
    return base64.b64decode(text)


async def follow_changes(context: Context) -> None:
    """Makes events of what the command line changes about accounts, for ever."""
    auth, engine = context.auth, context.service.engine
    assert auth is not None

    async def tell(changes: list[Change]) -> None:
        facts = [(change.type, change.data) for change in changes]
        await engine.ask(Note(facts=facts), lambda batch: batch.forget_changes(change.id for change in changes))

    while True:
        try:
            await auth.watch(tell)
        except RunyardError as error:
            log.warning("changes of accounts can't be followed now: %s", error.detail)
        except Exception:
            log.exception("a defect: changes of accounts can't be followed now")
        await asyncio.sleep(_PAUSE)
