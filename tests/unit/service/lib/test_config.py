# SPDX-License-Identifier: Apache-2.0
"""A configuration file explains itself, and an error names the setting and the remedy."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mooring.lib import config
from mooring.lib.config import Config, ConfigError, LimitsSection, ServerSection, TlsSection


def smallest() -> dict[str, Any]:
    return {
        "server": {"data_dir": "/var/lib/mooring", "url": "https://mooring.example:8443"},
        "tls": {"cert": "tls/c.pem", "key": "tls/k.pem", "ca": "tls/ca.pem"},
    }


def parse(data: dict[str, Any]) -> Config:
    return config.parse(data, Path("/etc/mooring/mooring.toml"))


def test_the_file_that_init_writes_reads_back_to_the_same_values(tmp_path: Path) -> None:
    written = Config(
        server=ServerSection(data_dir=str(tmp_path), url="https://h:1", instance='quo"te\\ \x7f'),
        tls=TlsSection(cert="/c", key="/k", ca="/ca"),
        limits=LimitsSection(max_connections=7, idle_timeout_seconds=1.5),
    )
    path = tmp_path / "mooring.toml"
    path.write_text(config.render(written))
    assert config.load(path) == written


def test_the_file_documents_every_setting_and_shows_every_default() -> None:
    text = config.render(parse(smallest()))
    everything = tomllib.loads(
        "\n".join(line.removeprefix("# ") if " = " in line else line for line in text.splitlines())
    )
    for section in msgspec.structs.fields(Config):
        names = {field.name for field in msgspec.structs.fields(section.type)}
        assert set(everything[section.name]) == names
        for name in names:
            lines = text[text.index(f"[{section.name}]") :].splitlines()
            at = next(i for i, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{name} = "))
            assert len(lines[at - 1].removeprefix("# ")) > 15, f"{section.name}.{name} is not documented"
    assert parse(everything) == parse(smallest()), "a default that is shown is not the default"


def test_relative_paths_are_relative_to_the_file() -> None:
    assert parse(smallest()).tls.cert == "/etc/mooring/tls/c.pem"


def test_what_is_left_out_has_a_place_in_the_data_folder() -> None:
    made = parse(smallest())
    assert made.database_url == "sqlite:////var/lib/mooring/mooring.db"
    assert str(made.api_socket) == "/var/lib/mooring/run/api.sock"
    assert str(made.audit_path) == "/var/lib/mooring/audit.log"
    assert made.instance


@pytest.mark.parametrize(
    ("section", "setting", "value", "says"),
    [
        ("server", "listen", "8443", "':8443'"),
        ("server", "listen", ":0", "':8443'"),
        ("server", "listen", "::1:8443", "brackets"),
        ("server", "url", "http://mooring.example", "https://"),
        ("server", "url", "https://mooring.example/sub", "nothing after it"),
        ("server", "url", "https://user@mooring.example", "https://NAME"),
        ("server", "data_dir", "", "folder"),
        ("server", "run_dir", "/" + "x" * 120, "/run/mooring"),
        ("server", "stop_timeout_seconds", 0, "float"),
        ("tls", "key", "", "no mode without TLS"),
        ("database", "url", "mysql://x", "postgresql://"),
        ("identity", "prefix", "", "end in ':'"),
        ("identity", "prefix", "acme", "end in ':'"),
        ("identity", "prefix", "a b:", "end in ':'"),
        ("identity", "prefix", "System:", "Kubernetes keeps"),
        ("identity", "password_min_length", 4, ">= 8"),
        ("limits", "max_connections", "many", "expected `int`"),
        ("limits", "max_connections", 0, ">= 1"),
        ("log", "level", "loud", "debug, info"),
        ("log", "format", "xml", "json, console"),
        ("audit", "required", "yes", "expected `bool`"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_setting(section: str, setting: str, value: Any, says: str) -> None:
    data = smallest()
    data.setdefault(section, {})[setting] = value
    with pytest.raises(ConfigError) as caught:
        parse(data)
    assert f"'{section}.{setting}'" in caught.value.reason
    assert "/etc/mooring/mooring.toml" in caught.value.reason
    assert says.lower() in str(caught.value).lower()


def test_an_unknown_setting_is_refused_and_the_known_ones_are_listed() -> None:
    data = smallest()
    data["server"]["listne"] = ":1"
    with pytest.raises(ConfigError, match=r"no setting 'server\.listne'.*listen"):
        parse(data)
    with pytest.raises(ConfigError, match=r"no setting 'sevrer'.*server"):
        parse({**smallest(), "sevrer": {}})


@pytest.mark.parametrize("missing", ["cert", "key", "ca"])
def test_a_missing_security_setting_is_named(missing: str) -> None:
    data = smallest()
    del data["tls"][missing]
    with pytest.raises(ConfigError, match=rf"'tls\.{missing}' is missing"):
        parse(data)


def test_a_missing_or_broken_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mooring server init"):
        config.load(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("[server\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        config.load(tmp_path / "broken.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path)


def test_a_url_with_brackets_around_no_address_is_an_error_with_a_sentence() -> None:
    data = smallest()
    data["server"]["url"] = "https://[audit]:8443"
    with pytest.raises(ConfigError, match=r"'server\.url'"):
        parse(data)


def test_the_password_of_a_database_is_not_printed() -> None:
    made = parse({**smallest(), "database": {"url": "postgresql://u:canary@h/d"}})
    assert "canary" not in repr(made)
    assert made.database_url == "postgresql://u:canary@h/d"


@pytest.mark.parametrize(
    ("text", "address"),
    [(":8443", ("", 8443)), ("127.0.0.1:1", ("127.0.0.1", 1)), ("[::1]:65535", ("::1", 65535)), ("h:80", ("h", 80))],
)
def test_listen_addresses(text: str, address: tuple[str, int]) -> None:
    assert config.parse_listen(text) == address


def test_the_documented_configuration_is_the_real_one() -> None:
    """docs/mooring.toml is what `mooring server init --data /var/lib/mooring` writes on a host of this name."""
    example = Config(
        server=ServerSection(data_dir="/var/lib/mooring", url="https://mooring.example.com:8443"),
        tls=TlsSection(
            cert="/var/lib/mooring/tls/server.crt",
            key="/var/lib/mooring/tls/server.key",
            ca="/var/lib/mooring/tls/ca.crt",
            ca_key="/var/lib/mooring/tls/ca.key",
        ),
    )
    page = Path(__file__).parents[4] / "docs" / "mooring.toml"
    assert page.read_text() == config.render(example), f"{page} is out of date: write the right-hand side into it"
