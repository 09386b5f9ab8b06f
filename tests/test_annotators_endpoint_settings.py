"""Settings, versions and credentials of annotators behind HTTP."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from annotator_programs import (
    CountedCalls,
    batch_of,
    format_lines,
    make_endpoint,
    reply,
    request_number,
    serve_lines,
)

from florence.annotators import ANNOTATORS
from florence.errors import SettingsError, UnavailableError


@pytest.fixture(autouse=True)
def no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("florence.annotators.endpoint.time.sleep", lambda seconds: None)


def test_a_token_from_a_file_is_sent_and_never_shown(tmp_path: Path):
    (tmp_path / "token").write_text("s3cr3t\n")
    counted = CountedCalls(
        lambda handler, requests, call: reply(handler, f"wrong: {handler.headers['Authorization']}".encode(), 401)
    )
    with serve_lines(counted) as url:
        theirs = make_endpoint(url, token_file=str(tmp_path / "token"))
        with pytest.raises(UnavailableError) as found:
            theirs.annotate(batch_of(1))
        assert counted.headers[0]["Authorization"] == "Bearer s3cr3t"
        assert "s3cr3t" not in str(found.value) and "wrong: Bearer •••" in str(found.value)
        (tmp_path / "token").write_text("n3w")
        with pytest.raises(UnavailableError):
            theirs.annotate(batch_of(1))
        assert counted.headers[1]["Authorization"] == "Bearer n3w", "it is read again"
        assert theirs.version == make_endpoint(url).version
        with pytest.raises(SettingsError, match=r"theirs\.token_file: .*nowhere"):
            make_endpoint(url, token_file=str(tmp_path / "nowhere")).load()
        for bad in ("", "s3cr3t\nX-More: 1", "s3cr3t\x07", "s3crét"):
            (tmp_path / "token").write_text(bad)
            with pytest.raises(SettingsError, match=r"theirs\.token_file: .* on one line") as refusal:
                theirs.annotate(batch_of(1))
            assert "s3cr" not in str(refusal.value)


def test_a_token_that_is_repeated_in_an_answer_is_redacted(tmp_path: Path):
    (tmp_path / "token").write_text("s3cr3t")

    def respond(handler, requests, call):
        reply(
            handler,
            b"".join(
                format_lines({"image_id": request["image_id"], "error": f"bad {handler.headers['Authorization']}"})
                if request_number(request) == 0
                else b"no s3cr3t\n"
                for request in requests
            ),
        )

    with serve_lines(CountedCalls(respond)) as url:
        first, second = map(
            str, make_endpoint(url, token_file=str(tmp_path / "token"), retries=0).annotate(batch_of(2))
        )
    assert first == "bad Bearer •••" and "found 'no •••'" in second and "s3cr3t" not in second


def test_netrc_is_used_for_its_host_alone(tmp_path: Path):
    netrc = tmp_path / "home/.netrc"
    netrc.write_text("machine 127.0.0.1 login me password s3cr3t\nmachine elsewhere login you password other\n")
    netrc.chmod(0o600)
    counted = CountedCalls(
        lambda handler, requests, call: reply(
            handler, f"you said s3cr3t, {handler.headers['Authorization']}".encode(), 403
        )
    )
    with serve_lines(counted) as url:
        with pytest.raises(UnavailableError) as found:
            make_endpoint(url).annotate(batch_of(1))
        assert counted.headers[0]["Authorization"] == "Basic " + base64.b64encode(b"me:s3cr3t").decode()
        assert "s3cr3t" not in str(found.value) and "you said •••, Basic •••" in str(found.value)
        with pytest.raises(UnavailableError):
            make_endpoint(url.replace("127.0.0.1", "localhost")).annotate(batch_of(1))
        assert "Authorization" not in counted.headers[1]
        netrc.write_text("machine 127.0.0.1 login me s3cr3t")
        with pytest.raises(SettingsError, match="netrc cannot be read") as refusal:
            make_endpoint(url).load()
        assert "s3cr3t" not in str(refusal.value)


@pytest.mark.parametrize("url", ["http://me:s3cr3t@127.0.0.1/x", "http://127.0.0.1/x?key=s3cr3t"])
def test_addresses_with_secrets_are_refused_and_not_repeated(url: str):
    with pytest.raises(SettingsError, match=r"theirs\.url.*netrc") as found:
        make_endpoint(url)
    assert "s3cr3t" not in str(found.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ftp://x/y"}, r"theirs\.url.*http://host"),
        ({"url": "x"}, r"theirs\.url"),
        ({"url": 5}, r"theirs\.url"),
        ({"version": ""}, r"theirs\.version"),
        ({"tasks": ["<OCR>"]}, r"theirs\.tasks"),
        ({"retries": -1}, r"theirs\.retries"),
    ],
)
def test_settings_are_checked(options: dict, message: str):
    with pytest.raises(SettingsError, match=message):
        make_endpoint(**{"url": "http://127.0.0.1/x", **options})


def test_version_follows_the_settings_and_not_the_address():
    version = make_endpoint("http://127.0.0.1/x").version
    assert version == make_endpoint("https://elsewhere:9/y", timeout=3, retries=9).version
    assert version != make_endpoint("http://127.0.0.1/x", version="2").version
    assert version != make_endpoint("http://127.0.0.1/x", vocabulary=["cat"]).version
    assert make_endpoint("http://127.0.0.1/x", vocabulary=["cat"], role="ranker").vocabulary() == ("cat",)


def test_a_secret_under_an_unknown_name_is_refused_without_its_value():
    with pytest.raises(SettingsError, match="annotators.theirs.token: no such setting") as error:
        ANNOTATORS.get("endpoint")(name="theirs", url="http://x", version="1", tasks=["<OD>"], token="sk-abcdefgh")
    assert "sk-abcdefgh" not in str(error.value)
