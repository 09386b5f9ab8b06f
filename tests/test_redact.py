from __future__ import annotations

import pytest

from florence.errors import FlorenceError, SettingsError
from florence.redact import (
    MASK,
    is_secret_name,
    redact,
    redact_settings,
    refuse_secret_arguments,
    secret_arguments,
    secret_values,
)

SECRET = "s3cret-value"


@pytest.mark.parametrize(
    "name",
    [
        "OPENAI_API_KEY",
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "AWS_SESSION_TOKEN",
        "DB_PASSWORD",
        "PGPASSWORD",
        "CLIENT_SECRET",
        "TOKEN",
        "api-key",
        "apiKey",
        "apikey",
        "--token",
        "secret",
    ],
)
def test_names_of_secrets(name: str):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["TOKENIZERS_PARALLELISM", "MONKEY", "token_file", "AWS_ACCESS_KEY_ID", "KEYBOARD", "max_tokens", "PASSWORD_FILE"],
)
def test_names_of_what_is_no_secret(name: str):
    assert not is_secret_name(name)


def test_secrets_of_an_environment():
    variables = {
        "OPENAI_API_KEY": "sk-12345678",
        "HF_TOKEN": "hf_a-longer-one",
        "DB_PASSWORD": "eight888",
        "SHORT_TOKEN": "seven77",
        "EMPTY_KEY": "",
        "TOKENIZERS_PARALLELISM": "falsefalse",
        "MONKEY": "bananabanana",
    }
    assert secret_values(variables) == ("hf_a-longer-one", "sk-12345678", "eight888")


def test_tokenizers_parallelism_masks_nothing():
    text = "core.autostage=false"
    assert redact(text, secret_values({"TOKENIZERS_PARALLELISM": "false"})) == text


def test_an_openai_key_is_masked():
    secrets = secret_values({"OPENAI_API_KEY": SECRET})
    assert redact(f"401: {SECRET} is not valid: {SECRET}", secrets) == f"401: {MASK} is not valid: {MASK}"


def test_a_secret_that_contains_another_is_masked_whole():
    assert redact("abcdefgh-ijkl", ["abcdefgh", "", "abcdefgh-ijkl"]) == MASK


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("postgresql://user:s3cret@host/db", f"postgresql://{MASK}@host/db"),
        ("mysql+pymysql://user:pa@s3cret@host/db", f"mysql+pymysql://{MASK}@host/db"),
        ("postgresql://s3cret@host/db", f"postgresql://{MASK}@host/db"),
        ("at https://u:s3cret@host:1/a, https://u:s3cret@b", f"at https://{MASK}@host:1/a, https://{MASK}@b"),
        ("https://host/?password=s3cret&x=1", f"https://host/?password={MASK}&x=1"),
        ("https://host/?x=1&api_token=s3cret", f"https://host/?x=1&api_token={MASK}"),
        ("(https://host/?x=1&apiKey=s3cret)", f"(https://host/?x=1&apiKey={MASK})"),
        ("https://host/a?X-Amz-Signature=s3cret", f"https://host/a?X-Amz-Signature={MASK}"),
        ("https://host/?sig=s3cret&sigma=2", f"https://host/?sig={MASK}&sigma=2"),
    ],
)
def test_credentials_of_urls_are_masked(text: str, masked: str):
    assert redact(text) == masked


@pytest.mark.parametrize(
    "text", ["s3://bucket/key@2", "https://host/a?monkey=1&tokens=5", "git@host:a/b.git", "a@b.c at https://host/x"]
)
def test_what_is_no_credential_stays(text: str):
    assert redact(text) == text


def test_settings_are_masked_by_name_and_by_value():
    settings = {
        "tracking": {"uri": "https://user:s3cret@host", "port": 8},
        "annotators": {
            "a": {"api_key": SECRET, "key": "short", "command": ["run", f"--x={SECRET}"], "token_file": "f"}
        },
    }
    assert redact_settings(settings, [SECRET]) == {
        "tracking": {"uri": f"https://{MASK}@host", "port": 8},
        "annotators": {"a": {"api_key": MASK, "key": "short", "command": ["run", f"--x={MASK}"], "token_file": "f"}},
    }


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (["run", "--api-key", SECRET], ["--api-key"]),
        (["run", "--apikey", SECRET, "--fast"], ["--apikey"]),
        (["run", f"--token={SECRET}"], ["--token"]),
        ([f"OPENAI_API_KEY={SECRET}", "run"], ["OPENAI_API_KEY="]),
        (["env", f"DB_PASSWORD={SECRET}", "run", "--token", SECRET], ["DB_PASSWORD=", "--token"]),
        (["sh", "-c", f"HF_TOKEN={SECRET} run --api-key {SECRET}"], ["HF_TOKEN=", "--api-key"]),
        (["sh", "-c", f"run it's --api-key {SECRET}"], ["--api-key"]),
        (["run", "--url", "https://user:s3cret@host/"], ["a URL with credentials"]),
        (["curl", "-H", f"Authorization: Bearer {SECRET}"], ["an Authorization header"]),
    ],
)
def test_secrets_in_commands_are_found(command: list[str], found: list[str]):
    assert secret_arguments(command) == found
    with pytest.raises(SettingsError) as error:
        refuse_secret_arguments(command, "annotators.a.command", "name its variable in annotators.a.environment")
    text = str(error.value)
    assert isinstance(error.value, FlorenceError) and SECRET not in text and "s3cret" not in text
    assert text.startswith(f"annotators.a.command: {found[0]} ")
    assert "variable in annotators.a.environment" in text and "token file" in text


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--token-file", "/run/secrets/token"],
        ["run", "--sort-key", "name"],
        ["run", "--api-key", "$OPENAI_API_KEY"],
        ["sh", "-c", "run --api-key ${OPENAI_API_KEY}"],
        ["sh", "-c", 'curl -H "Authorization: Bearer $HF_TOKEN"'],
        ["run", "--max-tokens=100000000"],
        ["run", "--api-key"],
        ["run", "--token", "--verbose-output"],
        ["run", "https://host/x"],
        [],
    ],
)
def test_commands_without_secrets_pass(command: list[str]):
    assert secret_arguments(command) == []
    refuse_secret_arguments(command, "annotators.a.command", "")
