"""What containers, files and shells put around a value, and what is made of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trio_sse.settings import Settings, SettingsError, env_name, is_secret, load
from trio_sse.settings.environment import MAX_SECRET_FILE_BYTES, Refused, Variable, is_service_link, read

TEXT, SECRET, LIST = Variable("TEXT"), Variable("SECRET", secret=True), Variable("LIST", listed=True)


def one(variable: Variable, text: str, **more: str) -> str | Refused | None:
    return read({variable.name: text, **more}, [variable]).values.get(variable.name)


def reason(value: str | Refused | None) -> str:
    assert isinstance(value, Refused)
    return value.reason


@pytest.mark.parametrize(
    "text",
    [
        "news",
        '"news"',
        "'news'",
        "news\r",
        '"news"\r',
        "\ufeffnews",
        " news\t",
        "\xa0news\xa0",
        "news\u200b",
        '" news "',
        "'news\r'",
        "news\n",
    ],
)
def test_what_is_around_a_value_is_taken_off(text: str) -> None:
    assert one(TEXT, text) == "news"


@pytest.mark.parametrize("text", ["", " ", "\r", '""', "''", '" "', "\ufeff", "\xa0\r\n"])
def test_nothing_but_surroundings_is_unset(text: str) -> None:
    assert one(TEXT, text) is None
    assert one(LIST, text) is None


@pytest.mark.parametrize(
    "text", ["my news", "a:b", "it's", 'say "yes" twice', "room#1", "a=b", "سلام\u200cها", "消息"]
)
def test_what_belongs_to_a_value_stays(text: str) -> None:
    assert one(TEXT, text) == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"news', "quotation mark"),
        ("news'", "quotation mark"),
        ("'\"news\"'", "quotation mark"),
        ("“news”", "quotation mark"),
        ("`news`", "quotation mark"),
        ('"a","b"', "quotation mark"),
        ("news # the channel", "comment"),
        ("news #the channel", "comment"),
        ("#news", "comment"),
        ("ne\tws", "U+0009"),
        ("ne\nws", "U+000A"),
        ("ne\u200bws", "U+200B"),
        ("ne\u202ews", "U+202E"),
        ("ne\x1b[2Jws", "U+001B"),
        ("ne\udcffws", "U+DCFF"),
    ],
)
def test_what_is_a_guess_is_refused(text: str, said: str) -> None:
    assert said in reason(one(TEXT, text))


def test_quotes_keep_what_looks_like_a_comment() -> None:
    assert one(TEXT, '"room #1"') == "room #1"


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("a, b ,", "a,b"),
        ('"a,b"', "a,b"),
        ('"a","b"', "a,b"),
        ("'a', b\r", "a,b"),
        ("a\nb\n", "a,b"),
        (",", ","),
    ],
)
def test_a_list_is_read_part_by_part(text: str, listed: str) -> None:
    assert one(LIST, text) == listed


def test_a_wrong_part_of_a_list_is_told_with_the_whole() -> None:
    value = one(LIST, "a,ne\u200bws")
    assert isinstance(value, Refused)
    assert (value.text, "U+200B" in value.reason) == ("a,ne\u200bws", True)


@pytest.mark.parametrize("name", ["TEXT ", "\ufeffTEXT", "export TEXT", "text", " export  Text"])
def test_what_is_around_a_name_is_taken_off(name: str) -> None:
    assert read({name: "news"}, [TEXT]).values == {"TEXT": "news"}
    assert read({name: "news", "TEXT": "exact"}, [TEXT]).values == {"TEXT": "exact"}
    assert read({"TEXT": "exact", name: "news"}, [TEXT]).values == {"TEXT": "exact"}


@example("''")
@example("'s3cret'")
@example(" s3cret\t")
@example("\"s3cret'")
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_secret_loses_line_ends_at_its_end_and_nothing_else(text: str) -> None:
    value = one(SECRET, text + "\r")
    bare = text.rstrip("\r\n")
    if bare in ('""', "''"):
        assert value is None
    elif len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'":
        assert "SECRET_FILE" in reason(value)
    else:
        assert value == (bare or None)


@given(st.text() | st.binary().map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_whatever_a_value_is_reading_it_raises_nothing(text: str) -> None:
    for variable in (TEXT, SECRET, LIST, Variable("REDIS_PORT"), Variable("SSE_PORT")):
        read({variable.name: text, "SECRET_FILE": text[:0]}, [variable])


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"s3cret\n", "s3cret"),
        (b"s3cret\r\n", "s3cret"),
        (b"s3cret", "s3cret"),
        (b"s3cret\n\n", "s3cret\n"),
        (b' "s3cret" \n', ' "s3cret" '),
        ("pässwörd #1".encode(), "pässwörd #1"),
    ],
)
def test_a_secret_file_loses_one_line_end(tmp_path: Path, data: bytes, value: str) -> None:
    (tmp_path / "file").write_bytes(data)
    assert one(SECRET, "", SECRET_FILE=str(tmp_path / "file")) == value
    assert one(SECRET, "", SECRET_FILE=f'"{tmp_path}/file"\r') == value


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (b"\n", "empty"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ("s3cret".encode("utf-16-be"), "NUL"),
        ("\ufeffs3cret".encode(), "byte order mark"),
        (b"x" * (MAX_SECRET_FILE_BYTES + 1), "more than"),
    ],
)
def test_a_file_that_is_no_secret_is_refused(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "file").write_bytes(data)
    value = one(SECRET, "", SECRET_FILE=str(tmp_path / "file"))
    assert said in reason(value)
    assert isinstance(value, Refused)
    assert (value.name, "s3cret" in value.reason) == ("SECRET_FILE", False)


@pytest.mark.parametrize("path", ["/no/such/file", "/tmp", "/dev/zero", "/dev/null", "a\0b"])
def test_a_path_that_is_no_file_is_refused(path: str) -> None:
    assert one(SECRET, "", SECRET_FILE=path) is not None
    reason(one(SECRET, "", SECRET_FILE=path))


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "regular file" in reason(one(SECRET, "", SECRET_FILE=str(tmp_path / "pipe")))


def test_a_secret_has_one_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("s3cret")
    said = reason(one(SECRET, "other", SECRET_FILE=str(tmp_path / "file")))
    assert "SECRET and SECRET_FILE are both set" in said
    assert one(SECRET, "other", SECRET_FILE="") == "other"
    assert one(TEXT, "text", TEXT_FILE="/no/such/file") == "text"


REDIS = [Variable("REDIS_HOST"), Variable("REDIS_PORT"), Variable("REDIS_URL"), Variable("REDIS_SENTINELS")]


@pytest.mark.parametrize(
    ("link", "host", "port"),
    [
        ("tcp://10.0.0.1:6379", "10.0.0.1", "6379"),
        ("tcp://[fd00::1]:7000", "fd00::1", "7000"),
        ("tcp://fd00::1:7000", "fd00::1", "7000"),
        ("TCP://10.0.0.1:6379/", "10.0.0.1", "6379"),
        ('"tcp://10.0.0.1:6379"\r', "10.0.0.1", "6379"),
    ],
)
def test_the_link_of_a_service_named_redis_is_its_address(link: str, host: str, port: str) -> None:
    found = read({"REDIS_PORT": link}, REDIS)
    assert found.values == {"REDIS_HOST": host, "REDIS_PORT": port}
    assert len(found.notices) == 1


def test_beside_a_host_the_link_is_its_port() -> None:
    found = read({"REDIS_PORT": "tcp://10.0.0.1:7000", "REDIS_HOST": "redis"}, REDIS)
    assert found.values == {"REDIS_HOST": "redis", "REDIS_PORT": "7000"}
    (notice,) = found.notices
    assert "its port is used" in notice


@pytest.mark.parametrize(
    "environment",
    [
        {"REDIS_PORT": "udp://10.0.0.1:6379"},
        {"REDIS_PORT": "tcp://10.0.0.1:6379", "REDIS_URL": "redis://h"},
        {"REDIS_PORT": "tcp://10.0.0.1:6379", "REDIS_SENTINELS": "h:26379"},
    ],
)
def test_a_link_that_means_nothing_is_told_and_left(environment: dict[str, str]) -> None:
    found = read(environment, REDIS)
    assert found.values == {name: value for name, value in environment.items() if name != "REDIS_PORT"}
    (notice,) = found.notices
    assert "REDIS_PORT=" in notice


@pytest.mark.parametrize("link", ["tcp://10.0.0.1:80", "udp://[fd00::1]:80", "tcp://10.0.0.1:8085\r"])
def test_the_link_of_a_service_named_sse_is_no_port_to_listen_on(link: str) -> None:
    found = read({"SSE_PORT": link}, [Variable("SSE_PORT")])
    assert found.values == {}
    (notice,) = found.notices
    assert "SSE_PORT=" in notice


@pytest.mark.parametrize("text", ["tcp://10.0.0.1", "http://10.0.0.1:80", "10.0.0.1:6379", "tcp://a b:1"])
def test_what_is_no_link_stays_for_the_setting_to_refuse(text: str) -> None:
    assert read({"REDIS_PORT": text}, REDIS).values == {"REDIS_PORT": text}


@pytest.mark.parametrize(
    ("name", "link"),
    [
        ("REDIS_SERVICE_HOST", True),
        ("REDIS_SERVICE_PORT", True),
        ("REDIS_SERVICE_PORT_RESP", True),
        ("REDIS_PORT_6379_TCP", True),
        ("REDIS_PORT_6379_TCP_ADDR", True),
        ("SSE_PORT_8085_TCP_PROTO", True),
        ("REDIS_PORT", False),
        ("REDIS_HOST", False),
    ],
)
def test_variables_that_kubernetes_sets_are_known(name: str, link: bool) -> None:
    assert is_service_link(name) is link


@pytest.fixture
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith(("SSE_", "REDIS_")):
            monkeypatch.delenv(name)


def set_what_goes_with(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings without which this one ends the start, since it would have no effect."""
    if field.startswith("jwt_"):
        monkeypatch.setenv("SSE_AUTH", "jwt")
        if not field.startswith("jwt_secret") or field == "jwt_secret_previous":
            monkeypatch.setenv("SSE_JWT_SECRET", "x" * 32)
    if field.startswith("redis_sentinel_"):
        monkeypatch.setenv("REDIS_SENTINELS", "a")


@pytest.mark.usefixtures("_clean")
@pytest.mark.parametrize("field", [name for name, field in Settings.model_fields.items() if is_secret(field)])
def test_every_secret_can_come_from_a_file(
    field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_what_goes_with(field, monkeypatch)
    value = f"redis://:s3cret{'x' * 32}@h"
    (tmp_path / "file").write_text(f"{value}\n")
    monkeypatch.setenv(f"{env_name(field)}_FILE", str(tmp_path / "file"))
    assert getattr(load(), field).get_secret_value() == value
    monkeypatch.setenv(env_name(field), "s3cret")
    with pytest.raises(SettingsError) as caught:
        load()
    (line,) = caught.value.lines
    assert f"{env_name(field)} and {env_name(field)}_FILE are both set" in line
    assert "s3cret" not in line


@pytest.mark.usefixtures("_clean")
@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        (
            "SSE_REDIS_CHANNEL",
            '"news',
            "SSE_REDIS_CHANNEL='\"news' is not accepted: it begins or ends with a quot",
        ),
        ("REDIS_PASSWORD", "'s3cret'", "REDIS_PASSWORD=(hidden) is not accepted: it is in quotes"),
        ("REDIS_PASSWORD_FILE", "/no/file", "REDIS_PASSWORD_FILE='/no/file' is not accepted: No such file"),
        ("SSE_PORT", "8085 # port", "SSE_PORT='8085 # port' is not accepted: it has a comment"),
        ("SSE_PORT", "30s", "SSE_PORT='30s' is not accepted. Accepted: a number"),
    ],
)
def test_what_is_refused_is_one_line(
    name: str, text: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, text)
    monkeypatch.setenv("REDIS_PORT", "x")
    with pytest.raises(SettingsError) as caught:
        load()
    assert len(caught.value.lines) == 2  # it hides no other
    assert any(said.startswith(line) for said in caught.value.lines)
    assert "s3cret" not in str(caught.value)


@pytest.mark.usefixtures("_clean")
@pytest.mark.parametrize(
    ("field", "default"),
    [
        (name, field.default)
        for name, field in Settings.model_fields.items()
        if field.default not in (None, "", ())
    ],
)
def test_every_setting_is_read_without_what_files_put_around_it(
    field: str, default: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_what_goes_with(field, monkeypatch)
    text = ",".join(default) if isinstance(default, tuple) else str(default)
    monkeypatch.setenv(env_name(field), f'\ufeff"{text}" \r')
    assert getattr(load(), field) == default


@pytest.mark.usefixtures("_clean")
def test_the_address_of_a_service_link_is_one_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_PORT", "tcp://10.0.0.1:6379")
    loaded = load()
    assert (loaded.redis_address, loaded.redis_is_configured) == ("10.0.0.1:6379", True)
    assert len(loaded.notices) == 1
