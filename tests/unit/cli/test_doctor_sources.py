"""What ``klais doctor`` says of the sources."""

import os

import pytest

from klais.cli.doctor.sources import check_sources
from klais.config.load import Settings


def test_udp_works_everywhere_and_the_others_say_why_not() -> None:
    (finding,) = check_sources(Settings(source="auto"))
    assert (finding.name, finding.status) == ("sources", "ok")
    assert finding.found.startswith("auto is set; here work udp")
    assert "not ringbuf: " in finding.found


@pytest.mark.parametrize("source", ["af_xdp", "ringbuf"])
def test_a_source_that_is_set_and_cannot_work_is_a_failure(source: str) -> None:
    (finding,) = check_sources(Settings(source=source, iface="klais-none"))  # type: ignore[arg-type]
    assert finding.status == "fail" and finding.fix
    wanted = "there is no interface 'klais-none'" if os.geteuid() == 0 else "root"
    assert wanted in finding.found
