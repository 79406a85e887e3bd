"""What a token proves: keys in settings. Keys from a URL: test_key_set.py."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests.support.inside import settings
from tests.support.tokens import SECRET, Key, ec_key, ed_key, forgeries, rsa_key, seal, secret, token
from tests.support.valkeys import certificate
from trio_sse.access.revocations import Revocation, Revocations
from trio_sse.access.tokens import MAX_TOKEN_BYTES, Denied, Identity, Verifier
from trio_sse.settings import SettingsError

HS256 = {"auth": "jwt", "jwt_secret": SECRET}


LENIENT = Verifier(settings(**HS256))
STRICT = Verifier(settings(**HS256, jwt_audience="sse", jwt_issuer="me"))


async def verify(given_token: str, **values: Any) -> Identity | Denied:
    return await Verifier(settings(**{**HS256, **values})).verify(given_token)


@pytest.fixture(params=["HS256", "RS256", "ES256", "EdDSA"])
def key(request: pytest.FixtureRequest) -> Key:
    keys = (secret(), rsa_key(), ec_key(), ed_key())
    return next(key for key in keys if key.algorithm == request.param)


@pytest.fixture
def verifier(key: Key, tmp_path: Path) -> Verifier:
    if key.algorithm == "HS256":
        return Verifier(settings(**HS256))
    file = tmp_path / "key.pem"
    file.write_bytes(key.pem)
    return Verifier(settings(auth="jwt", jwt_public_key_file=str(file)))


async def test_a_token_proves_its_user_for_as_long_as_it_is_valid(verifier: Verifier, key: Key) -> None:
    identity = await verifier.verify(token(key, sub="ann"))
    assert isinstance(identity, Identity)
    assert identity.user_id == "ann"
    assert 3600 < identity.seconds <= 3630, "until the leeway is over, too"


async def test_no_forgery_proves_anything(verifier: Verifier, key: Key) -> None:
    for other in (rsa_key(), ec_key(), ed_key(), secret("another secret, which is long enough too")):
        if other.algorithm != key.algorithm:
            for how, forged in forgeries(key, other).items():
                answer = await verifier.verify(forged)
                assert isinstance(answer, Denied), how
                assert (answer.status, answer.error) == (401, "invalid_token"), how
                assert not any(part in answer.detail for part in forged.split(".") if len(part) > 3), how


@pytest.mark.parametrize("other", [secret(digest="sha512", algorithm="HS512"), secret("x" * 40)])
async def test_a_secret_is_for_the_algorithms_it_is_long_enough_for(other: Key) -> None:
    assert isinstance(await verify(token(other)), Denied)


NOW = int(time.time())
"""When this module was imported: the tests may run minutes later."""


def seconds_from_now(**claims: int) -> dict[str, Any]:
    now = int(time.time())
    return {name: now + seconds for name, seconds in claims.items()}


@pytest.mark.parametrize(
    ("claims", "detail"),
    [
        ({"exp": NOW - 31}, "expired"),
        ({"exp": 0}, "expired"),
        ({"exp": -(10**30)}, "expired"),
        ({"exp": NOW - 31.5}, "expired"),
        ({"exp": str(NOW - 31)}, "expired"),
        ({"exp": True}, "expired"),
        ({"exp": None}, "lacks a required claim"),
        ({"exp": "tomorrow"}, "malformed"),
        ({"exp": [NOW + 60]}, "malformed"),
        ({"exp": math.inf}, "malformed"),
        ({"exp": math.nan}, "malformed"),
        ({"nbf": NOW + 3600}, "not valid yet"),
        ({"nbf": "x"}, "malformed"),
        ({"jti": 5}, "malformed"),
    ],
)
async def test_a_token_is_valid_in_its_time_only(claims: dict[str, Any], detail: str) -> None:
    answer = await verify(token(**claims))
    assert isinstance(answer, Denied)
    assert (answer.status, answer.error) == (401, "invalid_token")
    assert detail in answer.detail


@pytest.mark.parametrize(
    "claims",
    [{"exp": -10}, {"nbf": 20}, {"iat": 10**6}, {"nbf": 0}],
    ids=str,
)
async def test_clocks_may_differ_and_a_token_from_the_future_is_as_good(claims: dict[str, Any]) -> None:
    identity = await verify(token(**seconds_from_now(**claims)))
    assert isinstance(identity, Identity)
    assert identity.seconds > 0


async def test_an_iat_of_no_use_is_no_reason_to_refuse() -> None:
    assert isinstance(await verify(token(iat="x")), Identity)


@pytest.mark.parametrize("claims", [{"exp": -1}, {"nbf": 20}], ids=str)
async def test_without_leeway_they_may_not(claims: dict[str, Any]) -> None:
    assert isinstance(await verify(token(**seconds_from_now(**claims)), jwt_leeway_seconds=0), Denied)


LONG = "x" * 64


@pytest.mark.parametrize(
    ("text", "accepted"),
    [("x" * 32, {"HS256"}), ("x" * 48, {"HS256", "HS384"}), (LONG, {"HS256", "HS384", "HS512"})],
)
async def test_a_secret_is_for_the_hashes_it_is_as_long_as(text: str, accepted: set[str]) -> None:
    for bits in (256, 384, 512):
        key = secret(text, f"sha{bits}", f"HS{bits}")
        answer = await verify(token(key), jwt_secret=text)
        assert isinstance(answer, Identity) is (key.algorithm in accepted)


async def test_the_previous_secret_is_good_too() -> None:
    values = {"jwt_secret": "n" * 32, "jwt_secret_previous": SECRET}
    assert isinstance(await verify(token(), **values), Identity)
    assert isinstance(await verify(token(secret("n" * 32)), **values), Identity)
    answer = await verify(token(secret("o" * 32)), **values)
    assert isinstance(answer, Denied)
    assert "signature" in answer.detail


@pytest.mark.parametrize("text", ["ssh-rsa " + "A" * 40, '{"kty":"oct","k":"' + "A" * 40 + '"}'])
async def test_a_secret_that_looks_like_another_kind_of_key_verifies_nothing(text: str) -> None:
    answer = await verify(token(secret(text)), jwt_secret=text)
    assert isinstance(answer, Denied)
    assert "key is unknown" in answer.detail


PAIRS = {
    "RS384": rsa_key(),
    "RS512": rsa_key(),
    "PS256": rsa_key(),
    "PS384": rsa_key(),
    "PS512": rsa_key(),
    "RS256": rsa_key(),
    "ES256": ec_key(),
    "ES384": ec_key(ec.SECP384R1),
    "ES512": ec_key(ec.SECP521R1),
    "EdDSA": ed_key(),
}


@pytest.mark.parametrize("algorithm", PAIRS)
async def test_the_algorithms_of_a_key_follow_from_the_key(algorithm: str, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(PAIRS[algorithm].pem)
    verifier = Verifier(settings(auth="jwt", jwt_public_key_file=str(file)))
    for name, key in PAIRS.items():
        made = jwt.encode({"sub": "ann", "exp": NOW + 600}, key.private, name)
        answer = await verifier.verify(made)
        assert isinstance(answer, Identity) is (key is PAIRS[algorithm]), (name, answer)


async def test_several_keys_in_one_file_and_in_several_are_all_good(tmp_path: Path) -> None:
    one, other = tmp_path / "one.pem", tmp_path / "other.pem"
    one.write_bytes(b"the old one\n" + rsa_key().pem + b"\n" + ec_key().pem)
    other.write_bytes(ed_key().pem)
    verifier = Verifier(settings(auth="jwt", jwt_public_key_file=f"{one}, {other}"))
    for key in (rsa_key(), ec_key(), ed_key()):
        assert isinstance(await verifier.verify(token(key)), Identity)
    assert isinstance(await verifier.verify(token(ec_key(ec.SECP384R1))), Denied)


async def test_a_certificate_has_a_key_too(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    verifier = Verifier(settings(auth="jwt", jwt_public_key_file=str(cert)))
    made = jwt.encode({"sub": "ann", "exp": NOW + 600}, key.read_bytes(), "ES256")
    assert isinstance(await verifier.verify(made), Identity)


def is_ann(identity: Identity) -> bool:
    return identity.user_id == "ann"


def is_eve(identity: Identity) -> bool:
    return identity.user_id == "eve"


async def test_what_needs_no_fetch_is_answered_at_once() -> None:
    ann, bob = token(sub="ann"), token(sub="bob")
    for tokens in ((), (ann,), (bob, ann), ("x",), (token(ec_key()),), (token(exp=5), "x")):
        at_once = LENIENT.verify_now(*tokens, suits=is_ann)
        waiting = await LENIENT.verify(*tokens, suits=is_ann)
        assert type(at_once) is type(waiting)
        assert at_once is not None
        assert at_once[0] == waiting[0]


@pytest.mark.parametrize("header", [{"alg": "HS256", "x-é": "é"}, {"alg": "HS256", "kid": "-_>>??"}])
async def test_a_header_may_have_any_letters(header: dict[str, Any]) -> None:
    for ascii_only in (True, False):
        head = json.dumps(header, ensure_ascii=ascii_only).encode()
        made = seal(secret(), head, json.dumps({"sub": "ann", "exp": NOW + 600}).encode())
        assert isinstance(await verify(made), Identity)


async def test_of_several_tokens_a_good_one_counts_one_that_suits_first() -> None:
    ann, bob, old = token(sub="ann"), token(sub="bob"), token(sub="ann", exp=5)
    cases: list[tuple[tuple[str, ...], Callable[[Identity], bool], str]] = [
        ((old, ann), bool, "ann"),
        (("x", ann), bool, "ann"),
        ((bob, ann), bool, "bob"),
        ((bob, ann), is_ann, "ann"),
        ((bob, ann), is_eve, "bob"),
    ]
    for tokens, suits, user in cases:
        answer = await LENIENT.verify(*tokens, suits=suits)
        assert isinstance(answer, Identity)
        assert answer.user_id == user
    answer = await LENIENT.verify(old, "x")
    assert isinstance(answer, Denied)
    assert "expired" in answer.detail


@pytest.mark.parametrize("exp", [NOW + 10**12, 10**30, str(NOW + 10**12), 1e300], ids=range(4))
async def test_an_end_far_away_is_an_end(exp: object) -> None:
    identity = await verify(token(exp=exp))
    assert isinstance(identity, Identity)
    assert identity.seconds == 10 * 365 * 86400


async def test_an_end_beyond_all_floats_is_no_crash() -> None:
    assert isinstance(await verify(token(exp=10**400)), Identity | Denied)


@pytest.mark.parametrize(
    ("values", "claims", "detail"),
    [
        ({}, {"aud": "shop"}, "another audience"),
        ({}, {"aud": ["shop"]}, "another audience"),
        ({"jwt_audience": "sse, tv"}, {"aud": "shop"}, "another audience"),
        ({"jwt_audience": "sse"}, {}, "lacks a required claim"),
        ({"jwt_audience": "sse"}, {"aud": "shop"}, "another audience"),
        ({"jwt_audience": "sse"}, {"aud": ["shop", "SSE"]}, "another audience"),
        ({"jwt_audience": "sse"}, {"aud": {"sse": 1}}, "another audience"),
        ({"jwt_audience": "sse"}, {"aud": "ssename"}, "another audience"),
        ({"jwt_audience": "sse"}, {"aud": []}, "lacks a required claim"),
        ({"jwt_issuer": "https://a.example"}, {}, "lacks a required claim"),
        ({"jwt_issuer": "https://a.example"}, {"iss": "https://b.example"}, "another issuer"),
        ({"jwt_issuer": "https://a.example"}, {"iss": ["https://a.example"]}, "another issuer"),
        ({"jwt_issuer": "https://a.example"}, {"iss": "https://a.example/"}, "another issuer"),
    ],
)
async def test_audience_and_issuer_are_checked_where_they_are_set(
    values: dict[str, str], claims: dict[str, Any], detail: str
) -> None:
    answer = await verify(token(**claims), **values)
    assert isinstance(answer, Denied)
    assert detail in answer.detail


@pytest.mark.parametrize(
    ("values", "claims"),
    [
        ({}, {"iss": "anybody"}),
        ({"jwt_audience": "shop, sse"}, {"aud": "sse"}),
        ({"jwt_audience": "sse"}, {"aud": "sse"}),
        ({"jwt_audience": "sse"}, {"aud": ["shop", "sse"]}),
        ({"jwt_issuer": "https://a.example"}, {"iss": "https://a.example"}),
        ({"jwt_audience": "sse", "jwt_issuer": "me"}, {"aud": "sse", "iss": "me"}),
    ],
)
async def test_what_is_not_set_is_not_checked_and_what_is_right_passes(
    values: dict[str, str], claims: dict[str, Any]
) -> None:
    assert isinstance(await verify(token(**claims), **values), Identity)


@pytest.mark.parametrize(
    ("sub", "user_id"),
    [
        ("ann", "ann"),
        ("王", "王"),
        (7, "7"),
        (-7, "-7"),
        (0, "0"),
        (10**17, "1" + "0" * 17),
        (None, None),
        ("", None),
        ("*", None),
        (True, None),
        (1.0, None),
        (["ann"], None),
        ({}, None),
        ("a\nb", None),
        ("a\0", None),
        ("\ud800", None),
        ("x" * 129, None),
        (10**18, None),
        (-(10**18), None),
    ],
)
async def test_the_user_is_a_usable_id_or_nobody(sub: object, user_id: str | None) -> None:
    answer = await verify(token(sub=sub))
    if user_id is None:
        assert isinstance(answer, Denied)
        nothing_either = " and grants no topic (SSE_JWT_TOPICS_CLAIM)" if sub is None else ""
        assert answer.detail == f"the token names no user (SSE_JWT_USER_CLAIM){nothing_either}"
    else:
        assert isinstance(answer, Identity)
        assert answer.user_id == user_id


async def test_the_user_may_be_in_another_claim() -> None:
    answer = await verify(token(sub="ann", email="ann@a.example"), jwt_user_claim="email")
    assert isinstance(answer, Identity)
    assert answer.user_id == "ann@a.example"
    assert isinstance(await verify(token(), jwt_user_claim="email"), Denied)


GRANTS = ["news", "orders/*", "news", "chat/**", "b", "a"]


@pytest.mark.parametrize(
    ("claim", "names", "allowed"),
    [
        (GRANTS, ("news", "b", "a"), ["orders/17", "chat/1/2", "news"]),
        ("news", ("news",), ["news"]),
        ("orders/*", (), ["orders/17"]),
        (["", "or*", "a/**/b", "x\ny", "x" * 129, 17, None, True, ["b"], {"c": 1}, "ok"], ("ok",), []),
        ([], (), []),
        ("", (), []),
        (17, (), []),
        (True, (), []),
        ({"news": "news"}, (), []),
        (None, (), []),
    ],
)
async def test_topics_are_granted_by_names_and_patterns_and_what_is_neither_grants_nothing(
    claim: object, names: tuple[str, ...], allowed: list[str]
) -> None:
    answer = await verify(token(topics=claim))
    assert isinstance(answer, Identity)
    assert answer.user_id == "ann"
    assert answer.grants.names == names
    assert all(map(answer.grants.allows, allowed))
    for topic in ("orders/17", "chat/1/2", "news", "17", "b", "x\ny", "or*", "orders", "a/x/b"):
        assert answer.grants.allows(topic) is (topic in (*names, *allowed))


async def test_a_token_for_topics_alone_names_no_user() -> None:
    granting: list[object] = ["news", ["orders/*"]]
    for claim in granting:
        answer = await verify(token(sub=None, topics=claim))
        assert isinstance(answer, Identity)
        assert answer.user_id is None
        assert bool(answer.grants)
    useless: list[object] = [None, [], "*/a*", [5]]
    for claim in useless:
        denied = await verify(token(sub=None, topics=claim))
        assert isinstance(denied, Denied)
        assert (denied.status, denied.error) == (401, "invalid_token")
    for sub in ("", "*", True, 10**18, ["ann"], "a\nb"):  # it names somebody, wrongly
        assert isinstance(await verify(token(sub=sub, topics="news")), Denied)


async def test_the_topics_may_be_in_another_claim() -> None:
    answer = await verify(token(topics="news", may_read="orders"), jwt_topics_claim="may_read")
    assert isinstance(answer, Identity)
    assert answer.grants.names == ("orders",)


async def test_without_a_token_one_is_required() -> None:
    answer = await LENIENT.verify()
    assert answer == Denied(401, "a token is required", None)


async def test_a_token_without_end_is_not_read() -> None:
    answer = await verify("x" * (MAX_TOKEN_BYTES + 1))
    assert isinstance(answer, Denied)
    assert str(MAX_TOKEN_BYTES) in answer.detail
    fits = token(more="x" * 1000)
    assert isinstance(await verify(fits + "x" * (MAX_TOKEN_BYTES - len(fits))), Denied)


PRIVATE = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n"


def pem(kind: str) -> bytes:
    texts = {
        "empty": b"",
        "no PEM": b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA ann@host\n",
        "not ended": ed_key().pem[:40],
        "not UTF-8": b"\xff" * 100,
        "small RSA": rsa_key(1024).pem,
        "secp256k1": ec_key(ec.SECP256K1).pem,
        "a private key": PRIVATE,
    }
    return texts[kind]


@pytest.mark.parametrize(
    "kind",
    ["empty", "no PEM", "not ended", "not UTF-8", "small RSA", "secp256k1", "a private key"],
)
def test_a_key_that_is_none_or_too_weak_is_one_line_that_names_the_setting(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(pem(kind))
    with pytest.raises(SettingsError) as caught:
        Verifier(settings(auth="jwt", jwt_public_key_file=str(file)))
    (line,) = caught.value.lines
    assert line.startswith("SSE_JWT_PUBLIC_KEY_FILE=")
    assert "RS256, PS256, ES256" in line
    assert "\n" not in line


@pytest.mark.parametrize("path", ["", "missing.pem"])
def test_a_key_file_that_cannot_be_read_names_the_setting(path: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="SSE_JWT_PUBLIC_KEY_FILE="):
        Verifier(settings(auth="jwt", jwt_public_key_file=str(tmp_path / path)))


@given(st.text(st.characters(max_codepoint=255)) | st.text("ey.AJ0-_=", max_size=80))
async def test_no_text_makes_it_raise(text: str) -> None:
    assert isinstance(await LENIENT.verify(text), Denied)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**200), 10**200) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["sub", "topics", "exp", "nbf", "iat", "aud", "iss", "jti", "alg", "typ", "kid", "crit", "b64", "x5c"]
)
OBJECTS = st.dictionaries(NAMES, JSON)


def listed(claim: Any) -> list[str]:
    return [one for one in (claim if isinstance(claim, list) else [claim]) if isinstance(one, str)]


@given(OBJECTS, OBJECTS, st.booleans(), st.booleans())
async def test_whatever_is_signed_it_is_an_identity_or_none(
    header: dict[str, Any], claims: dict[str, Any], honest: bool, lasting: bool
) -> None:
    """Even with the right key: back ends make mistakes too."""
    if honest:
        header = {**header, "alg": "HS256"}
    if lasting:
        claims = {**claims, "exp": NOW + 600}
    made = seal(secret(), json.dumps(header).encode(), json.dumps(claims).encode())
    for verifier in (STRICT, LENIENT):
        answer = await verifier.verify(made)
        if isinstance(answer, Identity):
            sub = claims.get("sub")
            assert answer.user_id == (None if sub is None else str(sub))
            assert answer.user_id or answer.grants
            assert not answer.grants.names or set(answer.grants.names) <= set(listed(claims["topics"]))
        else:
            assert "\n" not in answer.detail


@given(st.binary(), st.binary())
async def test_whatever_bytes_are_signed_nothing_is_raised(header: bytes, payload: bytes) -> None:
    for head in (header, b'{"alg":"HS256"}'):
        assert isinstance(await LENIENT.verify(seal(secret(), head, payload)), Denied)


@pytest.mark.parametrize(
    "payload", [b"[" * 3000, b'{"a":' * 1000, b"9" * 5000, b'{"exp":' + b"9" * 5000 + b"}"]
)
async def test_deep_and_long_json_is_malformed(payload: bytes) -> None:
    for head in (payload, b'{"alg":"HS256"}'):
        answer = await verify(seal(secret(), head, payload))
        assert isinstance(answer, Denied)
        assert answer.status == 401


@pytest.mark.parametrize(
    ("claims", "found"),
    [
        ({"jti": "t-1", "iat": 1000}, ("t-1", 1000)),
        ({"iat": 1000.5}, (None, 1000.5)),
        ({}, (None, None)),
        ({"iat": "now"}, (None, None)),
        ({"iat": True}, (None, None)),
        ({"iat": 10**400}, (None, None)),
        ({"iat": math.nan}, (None, None)),
    ],
)
async def test_its_name_and_when_it_was_made_are_known_if_they_are_there(
    claims: dict[str, Any], found: tuple[str | None, float | None]
) -> None:
    identity = await verify(token(**claims))
    assert isinstance(identity, Identity)
    assert (identity.jti, identity.issued_at) == found


async def test_a_revoked_token_proves_nothing_and_another_one_beside_it_does() -> None:
    revocations = Revocations()
    verifier = Verifier(settings(**HS256), revocations)
    bad, good = token(jti="bad"), token(jti="good")
    revocations.add(Revocation("bad", None, 0), time.time() + 60)
    answer = await verifier.verify(bad)
    assert answer == Denied(401, "the token is revoked", "invalid_token")
    assert isinstance(await verifier.verify(bad, good), Identity)
    topics = token(sub=None, topics=["news"], jti="bad")
    assert isinstance(await verifier.verify(topics), Denied), "one without a user, too"


async def test_who_forges_a_token_cannot_learn_which_are_revoked() -> None:
    revocations = Revocations()
    verifier = Verifier(settings(**HS256), revocations)
    revocations.add(Revocation("bad", None, 0), time.time() + 60)
    answer = await verifier.verify(token(secret("another secret, which is long enough too"), jti="bad"))
    assert isinstance(answer, Denied)
    assert answer.detail == "the token's signature does not verify"
