"""The checks of ``klais doctor``. Each reads the settings, changes nothing, and yields at least one finding."""

import ctypes
import os
import platform
import re
import resource
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from klais.config.cross_checks import warnings
from klais.config.load import Settings
from klais.errors import ConfigError, KlaisError, PortInUse, SetupMissing
from klais.system.address import split_address
from klais.system.paths import cache_root
from klais.system.private_files import not_ours

Status = Literal["ok", "warn", "fail"]

MIN_KERNEL = (5, 4)  # oldest tested version; the newest system call of the UDP path, recvmmsg, is much older
MIN_XDP_KERNEL = (5, 15)
MIN_OPEN_FILES = 4096  # sockets of clients and brokers, segments of the embedded broker
MIN_FREE_BYTES = 1 << 30
GOOD_FREE_BYTES = 10 << 30  # a day of the staging topic at 5,000 frames/s, roughly
CLOCK_DRIFT_S = 0.005
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
_OURS = ("klais", "agents.app", "kafka.Kafka", "faust")


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check; ``fix`` describes what to do, empty if nothing."""

    name: str
    status: Status
    found: str
    fix: str = ""


Check = Callable[[Settings], Iterator[Finding]]


def run(check: Check, settings: Settings) -> list[Finding]:
    """The findings of a check; an error in the check is also a finding."""
    found: list[Finding] = []
    try:
        for finding in check(settings):
            found.append(finding)
    except Exception as error:  # one broken check must not hide the others, or its own findings so far
        name = check.__name__.removeprefix("check_").replace("_", " ")
        found.append(Finding(name, "warn", f"could not be checked: {type(error).__name__}: {error}"))
    return found


def check_system(settings: Settings) -> Iterator[Finding]:
    """Kernel, open files, memory."""
    release = platform.release()
    numbers = tuple(int(part) for part in re.findall(r"\d+", release)[:2])
    if platform.system() != "Linux":
        yield Finding("kernel", "fail", f"{platform.system()} {release}", "KLAIS runs on Linux only")
    elif numbers < MIN_KERNEL:
        yield Finding("kernel", "warn", f"Linux {release}", "use Linux 5.4 or newer: nothing older is tested")
    else:
        yield Finding("kernel", "ok", f"Linux {release}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < MIN_OPEN_FILES:
        fix = f"ulimit -n {MIN_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, 65_536)}"
        yield Finding(
            "open files", "warn", f"limit {soft} (hard {hard})", f"`{fix}`, or LimitNOFILE= in a systemd unit"
        )
    else:
        yield Finding("open files", "ok", f"limit {soft}")


def check_receive_buffer(settings: Settings) -> Iterator[Finding]:
    """Size that the kernel grants for ``udp_rcvbuf_bytes``, requested on a real socket like the edge does."""
    asked = settings.udp_rcvbuf_bytes
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, "SO_RCVBUFFORCE", 33), asked)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, asked)
        granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2  # the kernel doubles what it grants
    text = f"{granted:,} of {asked:,} bytes"
    if granted >= asked:
        yield Finding("receive buffer", "ok", text)
    else:
        fix = f"`sysctl -w net.core.rmem_max={asked}` (keep it in /etc/sysctl.d), or give the edge CAP_NET_ADMIN"
        yield Finding("receive buffer", "warn", f"{text}: bursts above it are lost in the kernel", fix)


def check_settings(settings: Settings) -> Iterator[Finding]:
    """Settings that work but are rarely intended; invalid ones were refused before."""
    notes = warnings(settings)
    for note in notes:
        yield Finding("configuration", "warn", note, "see `klais config show`")
    if not notes:
        yield Finding("configuration", "ok", "no warnings")


def check_folders(settings: Settings) -> Iterator[Finding]:
    """Write access and free space of the state and cache folders, or of their parents if they do not exist."""
    for name, variable, folder in (
        ("state folder", "KLAIS_STATE_DIR", settings.state_dir),
        ("cache folder", "KLAIS_CACHE_DIR", cache_root(settings.cache_dir)),
        *([("spool folder", "KLAIS_SPOOL_DIR", settings.spool_dir)] if settings.spool_dir else []),
    ):
        there = _nearest(folder.absolute())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            who = f"`chown {os.getuid()} {there}`"
            yield Finding(
                name, "fail", f"{folder}: no write access to {there}", f"{who}, or set {variable} to another folder"
            )
            continue
        if problem := not_ours(folder.stat()) if folder.is_dir() else "":
            fix = f"`chown` it to the user that runs klais and `chmod go-w` it, or set {variable} to another folder"
            yield Finding(name, "fail", f"{folder}: {problem}: klais refuses it", fix)
            continue
        free = shutil.disk_usage(there).free
        text = f"{folder}: {free / (1 << 30):.1f} GiB free"
        if free < MIN_FREE_BYTES:
            yield Finding(name, "fail", text, f"free some space, or set {variable} to a folder on another disk")
        elif name == "state folder" and settings.embedded_kafka and free < GOOD_FREE_BYTES:
            fix = "the embedded broker keeps a day of frames: watch the disk at more than 1,000 frames/s"
            yield Finding(name, "warn", text, fix)
        else:
            yield Finding(name, "ok", text)


def check_spool(settings: Settings) -> Iterator[Finding]:
    """Whether the disk has room for the spools of this machine's edges, as large as they may become."""
    folder = settings.spool_dir or settings.state_dir
    most = settings.spool_max_bytes * settings.edge_workers
    there = _nearest(folder.absolute())
    used = sum(path.stat().st_size for path in folder.glob("spool-*/*.spool"))
    free, text = shutil.disk_usage(there).free, f"up to {most / (1 << 30):.1f} GiB in {folder}"
    if most > free + used:
        fix = "free some space, lower KLAIS_SPOOL_MAX_BYTES, or set KLAIS_SPOOL_DIR to a folder on another disk"
        yield Finding("spool", "warn", f"{text}, but only {(free + used) / (1 << 30):.1f} GiB are left for it", fix)
    else:
        yield Finding("spool", "ok", text if most else "no spool (KLAIS_SPOOL_MAX_BYTES=0)")


def check_kernels(settings: Settings) -> Iterator[Finding]:
    """Whether a matching library of compiled kernels exists; without one each process compiles or loads with numba."""
    from klais.jit.library import NoLibrary, open_library

    try:
        open_library()
    except NoLibrary as error:
        yield Finding("kernels", "warn", f"{error}: processes start with numba, which takes longer", "`klais warm`")
    else:
        yield Finding("kernels", "ok", "processes load the compiled library")


def check_clock(settings: Settings) -> Iterator[Finding]:
    """Whether the clock is synchronised and runs evenly: timestamps, rates and retention depend on it."""
    year = time.gmtime().tm_year
    began = time.time(), time.monotonic()
    time.sleep(0.05)
    apart_s = abs((time.time() - began[0]) - (time.monotonic() - began[1]))
    if year < 2024:
        yield Finding("clock", "fail", f"the year is {year}", "set the clock; Kafka would delete records by their time")
    elif apart_s > CLOCK_DRIFT_S:
        text = f"wall clock and monotonic clock diverged by {apart_s * 1e3:.1f} ms within 50 ms"
        yield Finding("clock", "warn", text, "another program sets the clock: check the time service")
    else:
        state = _adjtimex()
        if state is None:
            yield Finding("clock", "ok", "runs evenly; its synchronisation status cannot be read")
        elif state == _TIME_ERROR:
            fix = "run a time service (chrony, systemd-timesyncd); with several hosts their times must agree"
            yield Finding("clock", "warn", "runs evenly, but is not synchronised", fix)
        else:
            yield Finding("clock", "ok", "synchronised, runs evenly")


def check_ports(settings: Settings) -> Iterator[Finding]:
    """Whether each port that this machine would listen on is free, or used by KLAIS itself."""
    from klais.system.ports import check_port

    udp, api = split_address(settings.udp_bind), split_address(settings.api_bind)
    wanted: list[tuple[str, int, Literal["tcp", "udp"], str, str]] = [
        (*udp, "udp", "KLAIS_UDP_BIND", ""),
        (*api, "tcp", "KLAIS_API_BIND", ""),
        (settings.web_bind, settings.web_port, "tcp", "KLAIS_WEB_PORT", "KLAIS_WEB_BIND"),
    ]
    if settings.embedded_kafka:
        wanted.append(("127.0.0.1", settings.kafka_port, "tcp", "KLAIS_KAFKA_PORT", ""))
    for host, port, kind, variable, host_variable in wanted:
        name = f"port {port}/{kind}"
        try:
            check_port(host, port, kind, variable, host_variable)
            yield Finding(name, "ok", "free")
        except PortInUse as error:
            if any(mark in str(error).partition("taken")[2].partition(": stop")[0] for mark in _OURS):
                yield Finding(name, "ok", str(error).partition(": stop")[0] + ": KLAIS is running")
            else:
                yield Finding(
                    name, "fail", str(error).partition(": stop")[0], f"stop it, or choose another with {variable}"
                )
        except ConfigError as error:
            yield Finding(name, "fail", str(error), "correct the setting")


def check_java(settings: Settings) -> Iterator[Finding]:
    """Java and Kafka's jars, if KLAIS runs the broker."""
    if not settings.embedded_kafka:
        yield Finding("java", "ok", "not needed: KLAIS_KAFKA_BOOTSTRAP names a cluster")
        return
    from klais.broker import jars

    try:
        java = jars.find_java()
        yield Finding("java", "ok", f"{java}, version {jars.java_version(java)}")
    except SetupMissing as error:
        found, _, fix = str(error).partition(": ")
        yield Finding("java", "fail", found, fix)
    folder = jars.jars_dir(settings.cache_dir)
    if folder.is_dir():
        yield Finding("kafka jars", "ok", f"{folder}")
    else:
        yield Finding(
            "kafka jars", "fail", f"none in {folder}", "`make setup`, or `klais kafka start`, which fetches them"
        )


def check_kafka(settings: Settings) -> Iterator[Finding]:
    """Whether a broker responds, and whether the topics of KLAIS have the right settings."""
    from confluent_kafka import KafkaException

    from klais.kafka.admin_client import admin_client
    from klais.kafka.probe import need_kafka

    try:
        need_kafka(settings, patient=False)
        brokers = admin_client(settings).list_topics(timeout=10).brokers
    except (KafkaException, KlaisError) as error:
        reason = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        if settings.embedded_kafka:
            text = f"the embedded broker is not running (no response at {settings.bootstrap})"
            yield Finding("kafka", "ok", text, "`klais up` or `klais kafka start` starts it")
        else:
            fix = "check KLAIS_KAFKA_BOOTSTRAP, that you can reach the cluster, and its TLS and SASL settings"
            yield Finding("kafka", "fail", reason, fix)
        return
    yield Finding("kafka", "ok", f"{len(brokers)} broker(s) at {settings.bootstrap}")
    yield from _topics(settings)


def _topics(settings: Settings) -> Iterator[Finding]:
    from klais.kafka.admin import check_topics

    try:
        wrong = check_topics(settings)
    except KlaisError as error:  # processes check the topics too, and do not start
        yield Finding("topics", "fail", str(error), "let this user describe the topics and their settings")
        return
    missing = [problem.topic for problem in wrong if problem.setting == "missing"]
    for problem in wrong:
        if problem.setting != "missing":
            text = f"{problem.topic}: {problem.setting} is {problem.found}, must be {problem.wanted}"
            yield Finding("topics", "fail", text, problem.fix)
    if missing:
        yield Finding("topics", "warn", f"missing: {', '.join(missing)}", "`klais topics create` creates them")
    if not wrong:
        yield Finding("topics", "ok", "all exist, with the right settings")


def check_xdp(settings: Settings) -> Iterator[Finding]:
    """Whether the XDP filter could be loaded here, and the state of a loaded one. It is optional, so no finding is a
    failure."""
    from klais.errors import XdpUnavailable
    from klais.xdp import bpffs, build
    from klais.xdp.maps import XdpMaps

    numbers = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
    if numbers < MIN_XDP_KERNEL:
        yield Finding(
            "xdp", "ok", f"Linux {platform.release()} is too old for the filter", "it needs Linux 5.15 or newer"
        )
        return
    if os.geteuid() != 0:
        yield Finding("xdp", "ok", "not checked", "the filter is optional; `sudo klais doctor` checks it")
        return
    if bpffs.mounted_at(settings.xdp_pin_dir) is None:
        yield Finding("xdp", "ok", "no filter is loaded", "`klais xdp load --iface IF` mounts bpffs and loads it")
        return
    try:
        with XdpMaps.open(settings.xdp_pin_dir) as maps:
            found = maps.status()
    except XdpUnavailable as error:
        yield Finding(
            "xdp", "ok", str(error).partition(": `")[0], "" if build.ready() else "`bin/setup` as root installs bcc"
        )
        return
    if found.heartbeat_age_s is not None and not found.fresh:
        age = f"the controller's heartbeat is {found.heartbeat_age_s:.0f} s old"
        text = f"loaded; {age}: the limits given at load are in force"
        yield Finding("xdp", "warn", text, "is the controller running? `klais xdp status`")
    else:
        yield Finding(
            "xdp", "ok", "loaded" + (f", rules in monitor mode: {', '.join(found.monitor)}" if found.monitor else "")
        )


CHECKS: tuple[Check, ...] = (
    check_system,
    check_receive_buffer,
    check_settings,
    check_folders,
    check_spool,
    check_kernels,
    check_clock,
    check_ports,
    check_java,
    check_kafka,
    check_xdp,
)


def _nearest(folder: Path) -> Path:
    """``folder``, or the nearest folder above it that exists."""
    return next(place for place in (folder, *folder.parents) if place.exists())


def _adjtimex() -> int | None:
    """State of the kernel's clock (adjtimex(2), read only); None if it cannot be read."""
    # struct timex is 208 bytes on 64-bit Linux; its first field, modes, is 0: change nothing.
    buffer = ctypes.create_string_buffer(512)
    try:
        state = int(ctypes.CDLL(None, use_errno=True).adjtimex(buffer))
    except (OSError, AttributeError):
        return None
    return state if state >= 0 else None
