"""Requirements of tests that a machine may lack. Without one a test skips, or fails if it is required."""

import os
import shutil
import socket
import subprocess
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

REQUIRED = {need.strip() for need in os.environ.get("KLAIS_REQUIRE", "").split(",") if need.strip()}
NEEDS = {
    "broker": "Java and Kafka's jars (make setup)",
    "kernel": "root, network namespaces, XDP, io_uring",
    "ipv6": "an IPv6 loopback address",
    "openssl": "the openssl command",
    "systemd": "the systemd-analyze command",
    "image": "root, buildah, mmdebstrap and some minutes (make release-test)",
    "man": "the groff command",
    "tutorial": "some minutes (make release-test)",
    "prometheus": "the commands prometheus and promtool, 2.42 or newer",
    "browser": "Chromium and Playwright (make setup)",
    "root": "root",
    "library": "the library of kernels (klais warm)",
    "llm": "the extra llm, a wheel with llama.cpp in it (make setup)",
    "kcat": "the kcat command (bin/setup --tests)",
    "spin": "the model checker spin and a C compiler (bin/setup --tests)",
    "kafka-tools": "Maven or the jar that it fetched, and Java",
    "clients": "Maven, javac, go and npm with their registries, and some minutes (make release-test)",
    "toolchains": "cc, go, rustc, javac and node",
    "data": "recorded data sets, in the folder that KLAIS_TEST_DATA names",
}
if unknown := REQUIRED - set(NEEDS):
    raise pytest.UsageError(f"KLAIS_REQUIRE names {', '.join(sorted(unknown))}; there are {', '.join(NEEDS)}")


def need_missing(need: str, why: str) -> NoReturn:
    """Skip with the reason, or fail if ``KLAIS_REQUIRE`` names the need (in CI a silent skip proves nothing)."""
    assert need in NEEDS, need
    if need in REQUIRED:
        pytest.fail(f"KLAIS_REQUIRE names {need!r}, and it is missing: {why}")
    pytest.skip(f"no {need}: {why}")


@cache
def ipv6_error() -> OSError | None:
    """Why this machine has no IPv6 loopback address; None if it has one."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        return error
    return None


def need_ipv6() -> None:
    """Skip (or fail, see ``need_missing``) without IPv6."""
    if error := ipv6_error():
        need_missing("ipv6", str(error))


def need_command(need: str, command: str, *works: str) -> str:
    """Path of a program; skips (or fails) if it is not installed, or fails with the arguments ``works``."""
    found = shutil.which(command)
    if found is None:
        need_missing(need, f"no command {command}")
    if works and (done := subprocess.run([found, *works], capture_output=True, text=True, check=False)).returncode:
        need_missing(need, f"{command} {' '.join(works)}: {done.stderr[-300:]}")
    return found


def need_data() -> Path:
    """Folder of recorded data sets; skips (or fails) without."""
    named = os.environ.get("KLAIS_TEST_DATA", "")
    if not named:
        need_missing("data", "KLAIS_TEST_DATA names no folder")
    if not Path(named).is_dir():
        need_missing("data", f"no folder {named}")
    return Path(named)
