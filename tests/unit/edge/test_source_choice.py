"""Which source is opened: the named one, or with ``auto`` the first that works, with the reasons of those before it."""

import pytest

from klais.config.load import Settings, load
from klais.edge.sources import choose
from klais.errors import ConfigError, PortInUse, SourceUnavailable


def settings(**given: object) -> Settings:
    return Settings(udp_bind="127.0.0.1:0", udp_rcvbuf_bytes=65_536, **given)  # type: ignore[arg-type]


def test_the_named_source_is_opened() -> None:
    chosen = choose.open_source(settings(source="udp"))
    assert (chosen.source.name, chosen.passed_over) == ("udp", {})
    chosen.source.close()


def test_auto_takes_the_first_that_works_and_says_why_not_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(s: Settings) -> None:
        raise OSError(1, "no rights")

    def absent(s: Settings) -> None:
        raise SourceUnavailable("no such interface: eth7")

    openers = {"first": broken, "second": absent, "udp": choose.OPENERS["udp"]}
    monkeypatch.setattr(choose, "OPENERS", openers)
    chosen = choose.open_source(settings(source="auto"))
    assert chosen.source.name == "udp"
    assert chosen.passed_over["first"] == "first does not work here: no rights"
    assert chosen.passed_over["second"] == "no such interface: eth7"
    chosen.source.close()


def test_a_taken_port_is_no_reason_to_try_another_source() -> None:
    first = choose.open_source(settings(source="udp")).source
    taken = Settings(udp_bind=f"127.0.0.1:{first.port}", source="auto")
    with pytest.raises(PortInUse):
        choose.open_source(taken)
    first.close()


def test_a_named_source_that_does_not_work_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(s: Settings) -> None:
        raise OSError(38, "this kernel has no io_uring")

    monkeypatch.setitem(choose.OPENERS, "io_uring", broken)
    with pytest.raises(SourceUnavailable, match="io_uring does not work here: this kernel has no io_uring"):
        choose.open_source(settings(source="io_uring"))


@pytest.mark.parametrize("source", ["af_xdp", "ringbuf"])
def test_sources_behind_the_filter_need_an_interface(source: str) -> None:
    with pytest.raises(ConfigError, match="KLAIS_IFACE"):
        load({"KLAIS_SOURCE": source})
    assert load({"KLAIS_SOURCE": source, "KLAIS_IFACE": "eth0"}).iface == "eth0"
