"""What ``klais doctor`` says of the sources."""

import os
from importlib import import_module

import pytest

from klais.cli.doctor.sources import check_sources
from klais.config.load import Settings
from klais.edge.sources import af_xdp


def test_udp_works_everywhere_and_the_others_say_why_not() -> None:
    (finding,) = check_sources(Settings(source="auto"))
    assert (finding.name, finding.status) == ("sources", "ok")
    assert finding.found.startswith("auto is set; available here: udp")
    assert "not ringbuf: " in finding.found


def test_af_xdp_says_why_not_after_its_submodule_socket_was_imported() -> None:
    import_module("klais.edge.sources.af_xdp.socket")  # from now on the package's own name `socket` is this module
    assert "klais-none" in (af_xdp.unavailable(Settings(source="af_xdp", iface="klais-none")) or "root, klais-none")


@pytest.mark.parametrize("source", ["af_xdp", "ringbuf"])
def test_a_source_that_is_set_and_cannot_work_is_a_failure(source: str) -> None:
    (finding,) = check_sources(Settings(source=source, iface="klais-none"))  # type: ignore[arg-type]
    assert finding.status == "fail" and finding.fix
    wanted = "there is no interface 'klais-none'" if os.geteuid() == 0 else "root"
    assert wanted in finding.found
