"""Which source is opened: the named one, or with ``auto`` the first that works, with the reasons of those before it."""

import pytest

from klais.config.load import Settings, load
from klais.edge.listener import listen
from klais.edge.sources import choose
from klais.edge.sources.udp.socket import UdpSocket
from klais.errors import ConfigError, SourceUnavailable


def settings(**given: object) -> Settings:
    return Settings(udp_bind="127.0.0.1:0", udp_rcvbuf_bytes=65_536, **given)  # type: ignore[arg-type]


def listening(**given: object) -> tuple[Settings, UdpSocket]:
    made = settings(**given)
    return made, listen(made)


def test_the_named_source_is_opened() -> None:
    chosen = choose.open_source(*listening(source="udp"))
    assert (chosen.source.name, chosen.skipped) == ("udp", {})
    chosen.source.close()


def test_auto_takes_the_first_that_works_and_says_why_not_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(s: Settings, udp: UdpSocket) -> None:
        raise OSError(1, "no rights")

    def absent(s: Settings, udp: UdpSocket) -> None:
        raise SourceUnavailable("no such interface: eth7")

    openers = {"first": broken, "second": absent, "udp": choose.OPENERS["udp"]}
    monkeypatch.setattr(choose, "OPENERS", openers)
    chosen = choose.open_source(*listening(source="auto"))
    assert chosen.source.name == "udp"
    assert chosen.skipped["first"] == "first does not work here: no rights"
    assert chosen.skipped["second"] == "no such interface: eth7"
    chosen.source.close()


def test_a_named_source_that_does_not_work_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(s: Settings, udp: UdpSocket) -> None:
        raise OSError(38, "this kernel has no io_uring")

    monkeypatch.setitem(choose.OPENERS, "io_uring", broken)
    udp = listen(settings())
    with pytest.raises(SourceUnavailable, match="io_uring does not work here: this kernel has no io_uring"):
        choose.open_source(settings(source="io_uring"), udp)
    udp.close()


@pytest.mark.parametrize("source", ["af_xdp", "ringbuf"])
def test_sources_behind_the_filter_need_an_interface(source: str) -> None:
    with pytest.raises(ConfigError, match="KLAIS_IFACE"):
        load({"KLAIS_SOURCE": source})
    assert load({"KLAIS_SOURCE": source, "KLAIS_IFACE": "eth0"}).iface == "eth0"
