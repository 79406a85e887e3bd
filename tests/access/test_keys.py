"""Which algorithms a key is for, and the keys of PEM files. What tokens they verify: test_auth.py."""

from __future__ import annotations

from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tests.support.tokens import Key, ec_key, ed_key, rsa_key
from trio_sse.access.keys import PUBLIC_KEY_ALGORITHMS, algorithms, read_files, secret
from trio_sse.settings import SettingsError


@pytest.mark.parametrize(
    ("key", "names"),
    [
        (rsa_key(), {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        (ec_key(), {"ES256"}),
        (ec_key(ec.SECP384R1), {"ES384"}),
        (ec_key(ec.SECP521R1), {"ES512"}),
        (ed_key(), {"EdDSA"}),
    ],
)
def test_the_algorithms_follow_from_the_key(key: Key, names: set[str]) -> None:
    assert set(algorithms(load_pem_public_key(key.pem))) == names
    assert names <= PUBLIC_KEY_ALGORITHMS


@pytest.mark.parametrize("key", [rsa_key(1024), ec_key(ec.SECP256K1)])
def test_a_weak_or_odd_key_is_for_none(key: Key) -> None:
    with pytest.raises(jwt.InvalidKeyError):
        algorithms(load_pem_public_key(key.pem))


@pytest.mark.parametrize(("length", "count"), [(31, 0), (32, 1), (47, 1), (48, 2), (63, 2), (64, 3)])
def test_a_secret_is_for_hashes_no_longer_than_itself(length: int, count: int) -> None:
    assert len(secret("x" * length).algorithms) == count


def test_each_file_that_is_not_accepted_has_its_line(tmp_path: Path) -> None:
    good, weak, none = (tmp_path / name for name in ("good.pem", "weak.pem", "none.pem"))
    good.write_bytes(rsa_key().pem + ed_key().pem)
    weak.write_bytes(rsa_key().pem + rsa_key(1024).pem)
    assert len(read_files([str(good)])) == 2
    with pytest.raises(SettingsError) as caught:
        read_files([str(good), str(weak), str(none)])
    assert [line.split("'")[1] for line in caught.value.lines] == [str(weak), str(none)]
