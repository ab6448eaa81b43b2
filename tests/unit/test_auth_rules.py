"""Who may do what, how credentials are read, how often one may fail: the pure part of accounts."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable
from typing import Any

import jwt
import msgspec
import pytest

from runyard.api.accounts import check_auth
from runyard.auth.access_token import Signer, read_request
from runyard.auth.audit import MOST, Audit, Call
from runyard.auth.caller import Caller, Role, Scope
from runyard.auth.credentials import PREFIX, Basic, Bearer, new_secret, read_header, secret_hash
from runyard.auth.directory import Directory
from runyard.auth.environment import flux_access
from runyard.auth.limiter import Limiter, address_key
from runyard.auth.password import check_password
from runyard.config import parse
from runyard.model.account import Token, User, check_account_name
from runyard.model.errors import ConfigError, Forbidden, InvalidInput, Unauthenticated

T0 = 1_790_000_000.0
ALL = frozenset(Scope)
READ, WRITE = frozenset({Scope.READ}), frozenset({Scope.READ, Scope.WRITE})


def basic(text: str) -> bytes:
    return b"Basic " + base64.b64encode(text.encode())


# Callers ----------------------------------------------------------------------------------------------------------

DEMANDS: dict[str, Callable[[Caller], None]] = {
    "read": lambda caller: caller.must_read(),
    "see own": lambda caller: caller.must_see("ann"),
    "see other": lambda caller: caller.must_see("bob"),
    "submit": lambda caller: caller.must_submit(),
    "change own": lambda caller: caller.must_change("ann"),
    "change other": lambda caller: caller.must_change("bob"),
    "administrate": lambda caller: caller.must_administrate(),
}


@pytest.mark.parametrize(
    ("role", "scopes", "allowed"),
    [
        (Role.ADMIN, ALL, set(DEMANDS)),
        (Role.ADMIN, WRITE, set(DEMANDS) - {"administrate"}),
        (Role.ADMIN, READ, {"read", "see own", "see other"}),
        (Role.ADMIN, frozenset({Scope.WRITE}), {"submit", "change own", "change other"}),
        (Role.USER, ALL, {"read", "see own", "submit", "change own"}),
        (Role.USER, READ, {"read", "see own"}),
        (Role.USER, frozenset({Scope.ADMIN}), set()),
        (Role.VIEWER, ALL, {"read", "see own", "see other"}),
    ],
)
def test_what_a_caller_may_do_follows_from_role_and_scopes(
    role: Role, scopes: frozenset[Scope], allowed: set[str]
) -> None:
    caller = Caller("ann", role, scopes)
    done = set()
    for name, demand in DEMANDS.items():
        try:
            demand(caller)
            done.add(name)
        except Forbidden as error:
            assert "ann" in error.detail
    assert done == allowed


def test_refusals_and_what_admins_do_are_witnessed() -> None:
    seen: list[tuple[str, str]] = []
    user = Caller("ann", Role.USER, ALL, None, lambda type, text: seen.append((type, text)))
    with pytest.raises(Forbidden):
        user.must_change("bob")
    user.must_change("ann")
    assert not user.may_see("bob")
    assert seen == [("auth.refused", "'ann' may not change jobs of 'bob'")]
    admin = Caller("root", Role.ADMIN, ALL, None, user.witness)
    admin.must_change("bob")
    admin.must_administrate("stops the service")
    assert seen[1:] == [("auth.admin", "changes a job of 'bob'"), ("auth.admin", "stops the service")]


# Credentials ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "found"),
    [
        (basic("ann:pass:word"), Basic("ann", "pass:word")),
        (basic("ann:"), Basic("ann", "")),
        (basic("ö:ü"), Basic("ö", "ü")),
        (b"bAsIc   " + basic("a:b")[6:], Basic("a", "b")),
        (b"Bearer abc", Bearer("abc")),
        (b"bearer  abc ", Bearer("abc")),
    ],
)
def test_credentials_are_read(header: bytes, found: Basic | Bearer) -> None:
    assert read_header(header) == found


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"  ",
        b"Bearer",
        b"Bearer ",
        b"Basic !!!",
        b"Basic " + base64.b64encode(b"\xff\xfe:x"),
        b"Basic " + base64.b64encode(b"no colon"),
        b"Digest username=x",
        b"abc",
        b"Bearer " + b"x" * 5000,
        basic("a:" + "x" * 5000),
    ],
)
def test_credentials_that_can_not_be_read_are_refused(header: bytes | None) -> None:
    with pytest.raises(Unauthenticated):
        read_header(header)


@pytest.mark.parametrize("name", ["ann", "a.b-c_d@example.org", "_x", "7of9", "x" * 64])
def test_names_of_accounts(name: str) -> None:
    assert check_account_name(name) == name


@pytest.mark.parametrize("name", ["", "a:b", "-a", ".a", "a b", "a\n", "ä", "a/b", "x" * 65])
def test_names_that_accounts_can_not_have(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_account_name(name)


# The directory ----------------------------------------------------------------------------------------------------


def test_a_token_is_found_by_its_secret_until_it_expires() -> None:
    secret, other, orphan = new_secret(), new_secret(), new_secret()
    assert secret.text.startswith(PREFIX + secret.id) and len({secret.text, other.text}) == 2

    def token(made: Any, user: str, expires: float | None) -> Token:
        return Token(id=made.id, user=user, hash=made.hash, scopes=READ, created_at=T0, expires_at=expires)

    tokens = [token(secret, "ann", T0 + 10), token(other, "ann", None), token(orphan, "gone", None)]
    directory = Directory(1, [User(name="ann")], tokens)
    assert directory.token(secret.text, T0) == tokens[0]
    assert directory.token(secret.text, T0 + 10) is None
    assert directory.token(other.text, T0 + 1e9) == tokens[1]
    assert directory.token(orphan.text, T0) is None
    assert directory.token(secret.text + "x", T0) is None
    assert directory.token("\ud800", T0) is None
    assert secret_hash(secret.text) == secret.hash


def test_an_account_is_usable_if_somebody_can_come_in_by_it() -> None:
    token = Token(id="1", user="ann", hash=b"", scopes=READ, created_at=0.0, expires_at=None)
    assert not Directory().usable
    assert not Directory(1, [User(name="ann")]).usable
    assert Directory(1, [User(name="ann")], [token]).usable
    assert Directory(1, [User(name="ann", password="$")]).usable
    assert not Directory(1, [User(name="ann", password="$", disabled=True)], [token]).usable


# Limits -----------------------------------------------------------------------------------------------------------


def test_who_fails_too_often_waits_until_the_oldest_failure_is_past() -> None:
    limiter = Limiter(3, 60.0)
    for second in (0, 10, 20):
        assert limiter.wait("ann", T0 + second) == 0
        limiter.failed("ann", T0 + second)
    assert limiter.wait("ann", T0 + 20) == 40
    assert limiter.wait("bob", T0 + 20) == 0
    assert limiter.wait("ann", T0 + 59) == 1
    assert limiter.wait("ann", T0 + 60) == 0
    limiter.failed("ann", T0 + 60)
    assert limiter.wait("ann", T0 + 61) == 9
    assert limiter.wait("ann", T0 + 1000) == 0


def test_a_limiter_remembers_a_bounded_number_of_keys() -> None:
    limiter = Limiter(1, 60.0, keys=10)
    for number in range(100):
        limiter.failed(f"key {number}", T0)
    assert [number for number in range(100) if limiter.wait(f"key {number}", T0)] == list(range(90, 100))


def test_a_host_of_ipv6_is_counted_as_one() -> None:
    assert address_key("2001:db8:1:2::1") == address_key("2001:db8:1:2:ffff::9")
    assert address_key("2001:db8:1:3::1") != address_key("2001:db8:1:2::1")
    assert address_key("::ffff:10.0.0.1") == address_key("10.0.0.1") == "10.0.0.1"
    assert address_key("not an address") == "not an address"


def test_the_audit_trail_is_bounded_for_each_address_and_says_what_it_left_out() -> None:
    told: list[tuple[str, dict[str, Any]]] = []
    audit = Audit(lambda type, data: told.append((type, data)))
    noisy, other = Call("10.0.0.1", "GET", "/x" * 1000), Call("10.0.0.2", "GET", "/")
    for _ in range(MOST + 50):
        audit.tell("auth.refused", noisy, T0, "a" * 1000, reason="r" * 1000)
    audit.tell("auth.refused", other, T0, None)
    audit.tell("auth.refused", noisy, T0, "root", proven=True)
    audit.tell("auth.login", noisy, T0, "root", proven=True)
    assert len(told) == MOST + 3
    assert max(len(str(value)) for value in told[0][1].values()) <= 200
    audit.tell("auth.refused", noisy, T0 + 61, "ann")
    assert told[-1][1]["left_out"] == 50
    audit.tell("auth.refused", noisy, T0 + 61, "ann")
    assert "left_out" not in told[-1][1]


# Access tokens ----------------------------------------------------------------------------------------------------

KEY, SECRET = b"k" * 32, "the shared secret of the clients"
ANN = User(name="ann", generation=3)


def test_an_access_token_says_who_it_stands_for_until_it_expires() -> None:
    signer = Signer(KEY, 600.0)
    token = signer.issue(ANN, T0, WRITE)
    assert token.expires_in == 600 and token.token_type == "Bearer"
    claims = signer.read(token.access_token, T0)
    assert (claims.name, claims.generation, claims.scopes) == ("ann", 3, WRITE)
    assert signer.read(token.access_token, T0 + 599) == claims
    for _ in range(2):
        with pytest.raises(Unauthenticated, match="expired"):
            signer.read(token.access_token, T0 + 600)
    assert signer.issue(ANN, T0).access_token != signer.issue(ANN, T0).access_token


def forged(key: bytes | str | None, algorithm: str = "HS256", **claims: Any) -> str:
    good = {"iss": "runyard", "aud": "runyard", "sub": "ann", "gen": 3, "scope": "read", "iat": 1, "jti": "1"}
    given = {name: value for name, value in {**good, "exp": T0, **claims}.items() if value is not None}
    return jwt.encode(given, key, algorithm)


@pytest.mark.parametrize(
    "token",
    [
        forged(SECRET),
        forged(b"x" * 32),
        forged(None, "none"),
        forged(KEY + b"k" * 32, "HS512"),
        forged(KEY, exp=None),
        forged(KEY, jti=None),
        forged(KEY, sub=None),
        forged(KEY, aud="other"),
        forged(KEY, iss="other"),
        forged(KEY, gen=None),
        forged(KEY, gen="x"),
        forged(KEY, scope="read everything"),
        forged(KEY, exp="soon"),
        "a.b.c",
        "...",
        "",
        "\xff.\xff.\xff",
        forged(KEY)[:-4],
    ],
    ids=lambda _: "token",
)
def test_forged_and_damaged_access_tokens_are_refused(token: str) -> None:
    with pytest.raises(Unauthenticated):
        Signer(KEY, 600.0).read(token, T0 - 1)


def signed(secret: str = SECRET, password: Any = "sesame-open", **claims: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)
        return jwt.encode({"user": "ann", "pass": password, "scope": "token"} | claims, secret, "HS256")


def test_a_request_for_a_token_as_the_clients_of_flux_sign_it() -> None:
    assert read_request(signed(), SECRET, T0) == ("ann", "sesame-open")
    assert read_request(signed(iat=T0 - 10, exp=T0 + 10), SECRET, T0) == ("ann", "sesame-open")
    assert read_request(signed("short"), "short", T0) == ("ann", "sesame-open")


@pytest.mark.parametrize(
    "text",
    [
        signed("another"),
        signed(scope="other"),
        signed(user=""),
        signed(user=7),
        signed(password=""),
        signed(password=["x"]),
        signed(iat=T0 - 1000),
        signed(iat=T0 + 1000),
        signed(exp=T0 - 1000),
        signed(iat="now"),
        signed(iat=10**400),
        signed(user="an\ud800n"),
        signed(password="open\ud800"),
        jwt.encode({"user": "ann", "pass": "x", "scope": "token"}, None, "none"),
        "nonsense",
    ],
    ids=lambda _: "request",
)
def test_requests_for_a_token_that_are_refused(text: str) -> None:
    with pytest.raises(Unauthenticated):
        read_request(text, SECRET, T0)


# The environment and the configuration ----------------------------------------------------------------------------


def no_file(name: str) -> str:
    raise FileNotFoundError(2, "No such file or directory", name)


def test_the_account_in_the_environment() -> None:
    assert flux_access({}, no_file).password == ""
    found = flux_access({"FLUX_TOKEN": "12345", "FLUX_SECRET_KEY": "notsecrethoo"}, no_file)
    assert (found.user, found.password, found.secret) == ("fluxuser", "12345", "notsecrethoo")
    assert found.weak == ["FLUX_TOKEN", "FLUX_SECRET_KEY"]
    found = flux_access({"FLUX_USER": "ann", "FLUX_TOKEN_FILE": "/run/secret"}, lambda name: f"in {name} 99\n")
    assert (found.user, found.password, found.weak) == ("ann", "in /run/secret 99", [])
    with pytest.raises(ConfigError, match="FLUX_TOKEN_FILE"):
        flux_access({"FLUX_TOKEN_FILE": "/nowhere"}, no_file)


@pytest.mark.parametrize(
    ("env", "enabled", "run_as", "lifetime"),
    [
        ({}, False, False, 36000),
        ({"FLUX_REQUIRE_AUTH": "true"}, True, False, 36000),
        ({"FLUX_REQUIRE_AUTH": "false"}, False, False, 36000),
        ({"FLUX_REQUIRE_AUTH": ""}, False, False, 36000),
        ({"FLUX_USER_AUTH": "True"}, True, False, 36000),
        ({"FLUX_USER_AUTH": "on", "FLUX_REQUIRE_AUTH": "0"}, True, False, 36000),
        ({"FLUX_REQUIRE_AUTH": "true", "RUNYARD_AUTH__ENABLED": "false"}, False, False, 36000),
        ({"FLUX_SERVER_MODE": "multi-user"}, False, True, 36000),
        ({"FLUX_SERVER_MODE": "single-user", "FLUX_ACCESS_TOKEN_EXPIRES_MINUTES": "5"}, False, False, 300),
    ],
)
def test_the_variables_of_flux_are_settings(env: dict[str, str], enabled: bool, run_as: bool, lifetime: int) -> None:
    auth = parse(env=env)[0].auth
    assert (auth.enabled, auth.run_as, auth.access_token_lifetime) == (enabled, run_as, lifetime)


@pytest.mark.parametrize(
    "env",
    [
        {"FLUX_REQUIRE_AUTH": "maybe"},
        {"FLUX_SERVER_MODE": "many"},
        {"FLUX_ACCESS_TOKEN_EXPIRES_MINUTES": "0"},
        {"FLUX_ACCESS_TOKEN_EXPIRES_MINUTES": "1.5"},
    ],
)
def test_variables_of_flux_that_make_no_sense_are_named(env: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(env))):
        parse(env=env)


def test_nobody_else_can_call_while_there_are_no_accounts() -> None:
    check_auth(parse()[0])
    check_auth(parse('[server]\nhost = "0.0.0.0"\n[auth]\nenabled = true')[0])
    for text in ('[server]\nhost = "0.0.0.0"', '[doors.modelbox]\nhost = "10.0.0.1"'):
        with pytest.raises(ConfigError, match="refusing to listen"):
            check_auth(parse(text)[0])


@pytest.mark.parametrize(
    "name",
    ["FLUX_TOKEN", "FLUX_TOKEN_FILE", "FLUX_SECRET_KEY", "RUNYARD_TOKEN", "RUNYARD_STORE__URL", "RUNYARD_HOOKS"],
)
def test_secrets_of_the_server_are_never_handed_on_to_jobs(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        check_auth(parse(f'[agent]\npass_env = ["{name}"]')[0])


def test_the_audit_trail_takes_names_that_are_no_text() -> None:
    told: list[dict[str, Any]] = []
    audit = Audit(lambda _, data: told.append(data))
    audit.tell("auth.refused", Call("10.0.0.1", "GET", "/\udcff"), T0, "an\ud800n", reason="\ud800" * 300)
    assert msgspec.json.decode(msgspec.json.encode(told[0]))["account"] == "an?n"
    assert len(told[0]["reason"]) == 200


@pytest.mark.parametrize("password", ["", "seven77", "x" * 1025, PREFIX + "0123456789", "\udce4" * 8])
def test_what_can_be_no_password(password: str) -> None:
    with pytest.raises(InvalidInput, match="a password"):
        check_password(password)
