"""Users, passwords, rights and certificates, on a server that has some."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_ray_sinks.bench.clickhouse_server import ClickHouseServer
from cdp_ray_sinks.errors import ConfigError, TransientError

CONFIG = """<clickhouse>
  <users_config>{config}</users_config>
  <profiles><default></default><reader><readonly>1</readonly></reader></profiles>
  <quotas><default></default></quotas>
  <users>
    <default>
      <password></password><networks><ip>::/0</ip></networks>
      <profile>default</profile><quota>default</quota>
    </default>
    <writer>
      <password>right</password><networks><ip>::/0</ip></networks>
      <profile>default</profile><quota>default</quota>
      <grants>
        <query>GRANT SELECT, INSERT, SHOW ON *.*</query>
      </grants>
    </writer>
    <guest>
      <password>right</password><networks><ip>::/0</ip></networks>
      <profile>default</profile><quota>default</quota>
      <grants><query>GRANT SELECT, SHOW ON *.*</query></grants>
    </guest>
    <reader>
      <password>right</password><networks><ip>::/0</ip></networks>
      <profile>reader</profile><quota>default</quota>
    </reader>
  </users>
</clickhouse>"""


@pytest.fixture(scope="module")
def strict_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A server with users that may not do everything."""
    with ClickHouseServer(tmp_path_factory.mktemp("strict"), CONFIG) as server:
        yield server


@pytest.fixture
def strict(strict_server: ClickHouseServer, lab_of: Callable[..., Any]) -> Any:
    """A lab on it, with the tables in place."""
    lab = lab_of(strict_server)
    lab.sink().close()
    return lab


def test_a_wrong_password_is_told_at_the_start(strict: Any) -> None:
    """With the user's name and the server's own words, and without the password."""
    with pytest.raises(ConfigError, match=r"Code: 516.*writer") as caught:
        strict.sink(username="writer", password="wrong-pa55")
    assert "wrong-pa55" not in str(caught.value)


def test_a_password_that_is_changed_holds_the_rows_back(
    tmp_path: Path, lab_of: Callable[..., Any]
) -> None:
    """While the sink is at work; with the old one again they land, the rest as well."""
    with ClickHouseServer(tmp_path / "server", CONFIG) as server:
        lab = lab_of(server)
        lab.sink().close()
        sink = lab.sink("writer", username="writer", password="right", create_tables=False)
        sink.write(lab.numbered(0, 10))
        sink.flush()
        for text in (CONFIG.replace(">right<", ">new<"), CONFIG):
            server.kill()
            server._config = text
            server.start()
            if text != CONFIG:
                sink.write(lab.numbered(10, 10))
                with pytest.raises(TransientError, match=r"events_v1: Code: 516") as caught:
                    sink.flush()
                assert caught.value.retry_after_ms >= 1000
                assert "right" not in str(caught.value)
        lab.flush(sink)
        assert lab.landed() == (20, 20)


def test_a_user_may_insert_and_no_more(strict: Any) -> None:
    """Nothing else is needed where the tables are there."""
    sink = strict.sink(username="writer", password="right", create_tables=False)
    assert sink.notes == []
    sink.write(strict.numbered(0, 10))
    sink.flush()
    assert strict.landed() == (10, 10)
    with pytest.raises(ConfigError, match="create_tables: Code: 497"):
        strict.sink("other", username="writer", password="right")


def test_a_user_who_may_not_insert_holds_the_rows_back(strict: Any) -> None:
    """They wait for the right, and the reason is told."""
    sink = strict.sink(username="guest", password="right", create_tables=False)
    sink.write(strict.numbered(0, 10))
    with pytest.raises(TransientError, match="events_v1: Code: 497") as caught:
        sink.flush()
    assert caught.value.retry_after_ms >= 1000
    sink._let_go()
    again = strict.sink(username="writer", password="right", create_tables=False)
    assert strict.landed() == (10, 10)
    again.close()


def test_a_user_who_may_only_read_is_refused_at_the_start(strict: Any) -> None:
    """Such a user may not give an insert its token either."""
    with pytest.raises(ConfigError, match="'reader' may not change settings"):
        strict.sink(username="reader", password="right", create_tables=False)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_over_https_the_certificate_counts(lab: Any, tmp_path: Path) -> None:
    """With the authority that signed it rows land, without it nothing is sent."""
    folder = Path(__file__).parents[1] / "golden" / "tls"
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    proxy = lab.proxy(tls)
    asked: list[bytes] = []
    proxy.on_request = lambda head: asked.append(head) or "pass"
    with pytest.raises(TransientError, match="certificate verify failed"):
        lab.sink(url=proxy.url)
    assert asked == []
    sink = lab.sink(url=proxy.url, ca_cert=folder / "certificate.pem")
    sink.write(lab.numbered(0, 1000))
    sink.flush()
    assert lab.landed() == (1000, 1000)
    assert any(b"INSERT" in head for head in asked)
    other = lab.sink("trusting", url=proxy.url, verify=False)
    other.write(lab.numbered(1000, 10, producer=b"another producer"))
    other.flush()
    assert lab.landed() == (1010, 1010)
