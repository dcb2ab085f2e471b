"""Frames over loopback to a plain socket: all arrive, in order, paced, and the manifest says so."""

import json
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from click.testing import CliRunner

from klais.cli.main import main
from klais.sim.columns import columns_of_frames
from klais.sim.manifest import read_manifest
from klais.sim.report import reporter, summary_text
from klais.sim.run import CATCH_UP_S, Plan, Progress, _Clock, run
from klais.sim.stream import FrameStream, StreamOptions
from klais.sim.traffic import SteadyRate
from klais.system.address import destination
from tests.support.needs import need_ipv6
from tests.support.ports import free_port
from tests.support.process import PATIENCE

FAULTS = StreamOptions(devices=40, seed=3, malformed=0.05, duplicates=0.05, reorder=0.05, reboot=0.01)
UNPACED = SteadyRate(float("inf"))


class _Receiver:
    """Receives datagrams on a port of its own until ``expected`` came.

    Tests expect at most 400: as many wait in the smallest receive buffer, whoever of the two threads runs.
    """

    def __init__(self, expected, family=socket.AF_INET, host="127.0.0.1"):
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind((host, 0))
        self._socket.settimeout(5 * PATIENCE)
        self.port = self._socket.getsockname()[1]
        self.frames, self.sources = [], []
        self._expected = expected
        self._thread = threading.Thread(target=self._receive)
        self._thread.start()

    def _receive(self):
        try:
            while len(self.frames) < self._expected:
                frame, source = self._socket.recvfrom(65_536)
                self.frames.append(frame)
                self.sources.append(source)
        except TimeoutError:
            pass

    def join(self):
        self._thread.join()
        self._socket.close()
        return self.frames


def _expected(options, count, rate):
    stream, out = FrameStream(options, SteadyRate(rate)), []
    while len(out) < count:
        chunk = stream.next_chunk()
        out += [chunk.frame(i) for i in range(chunk.count)]
    return out[:count]


def test_frames_arrive_as_built_and_the_manifest_says_so(tmp_path):
    receiver = _Receiver(400)
    plan = Plan("127.0.0.1", receiver.port, count=400, manifest=tmp_path / "m")
    summary = run(FrameStream(FAULTS, SteadyRate(30_000.0)), plan)
    frames = receiver.join()
    assert frames == _expected(FAULTS, 400, 30_000.0)
    assert summary["frames"] == sum(summary["kinds"].values()) == 400
    assert summary["bytes"] == sum(map(len, frames))
    manifest = read_manifest(tmp_path / "m")
    assert (manifest.hashes == columns_of_frames(frames).hashes).all()
    assert manifest.totals == summary and manifest.by_kind() == summary["kinds"]
    assert (np.diff(manifest.sent_at_ns) >= 0).all()


def test_over_ipv6():
    need_ipv6()
    receiver = _Receiver(100, socket.AF_INET6, "::1")
    run(FrameStream(FAULTS, SteadyRate(10_000.0)), Plan("::1", receiver.port, count=100))
    assert receiver.join() == _expected(FAULTS, 100, 10_000.0)


def test_each_device_keeps_its_source_port():
    receiver = _Receiver(400)
    options = StreamOptions(devices=40, seed=3)
    plan = Plan("127.0.0.1", receiver.port, source_ports=4, count=400)
    run(FrameStream(options, SteadyRate(20_000.0)), plan)
    frames = receiver.join()
    ports = {}
    for frame, source in zip(frames, receiver.sources, strict=True):
        ports.setdefault(frame[2:18], set()).add(source)
    assert all(len(used) == 1 for used in ports.values())
    assert len(set.union(*ports.values())) == 4
    for device in ports:
        sequences = [frame[18:22] for frame in frames if frame[2:18] == device]
        assert sequences == sorted(sequences)


def test_a_run_takes_its_time_and_sends_what_was_due():
    receiver = _Receiver(200)
    reports = []
    plan = Plan("127.0.0.1", receiver.port, duration_s=0.2, report_s=0.05, report=lambda p: reports.append(p.sent))
    summary = run(FrameStream(StreamOptions(devices=3, seed=1), SteadyRate(1000.0)), plan)
    assert summary["frames"] == len(receiver.join()) == 200 or summary["slipped_s"] > 0
    assert summary["seconds"] >= 0.2
    assert reports and reports == sorted(reports)


def test_a_run_that_cannot_keep_up_ends_in_time_and_says_what_it_let_go():
    receiver = _Receiver(1)
    options = StreamOptions(devices=3, seed=1)
    summary = run(FrameStream(options, SteadyRate(1e9)), Plan("127.0.0.1", receiver.port, duration_s=0.3))
    receiver.join()
    assert 0 < summary["frames"] < 3e8
    assert summary["slipped_s"] > 0.1


def test_a_sender_that_wakes_up_after_the_end_says_so():
    stream = FrameStream(StreamOptions(devices=3, seed=1), SteadyRate(1e6))
    clock = _Clock(stream, Plan("127.0.0.1", 1, duration_s=CATCH_UP_S + 0.05))
    time.sleep(2 * CATCH_UP_S + 0.06)
    assert clock.due(0) == 0 and clock.slipped_s == pytest.approx(0.05)


def test_a_stop_ends_the_run_and_closes_the_manifest(tmp_path):
    receiver = _Receiver(1)
    asked = []
    plan = Plan("127.0.0.1", receiver.port, manifest=tmp_path / "m", stop=lambda: asked.append(1) or len(asked) > 5)
    summary = run(FrameStream(StreamOptions(seed=1), UNPACED), plan)
    receiver.join()
    assert summary["frames"] == 5 * 1024
    assert read_manifest(tmp_path / "m").totals["frames"] == 5 * 1024


def test_nobody_listening_is_told_not_raised():
    refused: list[int] = []
    plan = Plan(
        "127.0.0.1",
        free_port(kind="udp"),
        # The kernel limits its ICMP answers for the whole machine (icmp_msgs_per_sec): go on until one comes.
        count=int(2000 * 60 * PATIENCE),
        report_s=0.02,
        report=lambda progress: refused.append(progress.refused),
        stop=lambda: any(refused),
    )
    summary = run(FrameStream(StreamOptions(seed=1), SteadyRate(2000.0)), plan)
    assert summary["frames"] > 0 and summary["refused"] > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_cleanly(tmp_path, number):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        command = [sys.executable, "-m", "klais", "simulate", "--trace", "nasa", "--json-lines", "--quiet"]
        command += ["--to", f"127.0.0.1:{sink.getsockname()[1]}", "--manifest", str(tmp_path / "m")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            first = json.loads(child.stdout.readline())
            child.send_signal(number)
            last = json.loads(child.communicate(timeout=20 * PATIENCE)[0].splitlines()[-1])
    assert child.returncode == 0
    assert first["elapsed_s"] >= 1 and first["sent"] <= last["frames"]
    assert read_manifest(tmp_path / "m").totals == last


@pytest.mark.parametrize("mode", ["quiet", "json", "plain", "bar"])
@pytest.mark.parametrize("duration_s, count", [(10.0, None), (None, 100), (None, None)])
def test_progress_is_told(mode, duration_s, count, capsys, monkeypatch):
    for name, value in (("FORCE_COLOR", "1"), ("NO_COLOR", ""), ("TERM", "xterm"), ("COLUMNS", "160")):
        monkeypatch.setenv(name, value)
    with reporter(mode, duration_s, count) as (report, report_s):
        report(Progress(2.0, 50, 2850, 25.0, refused=3, slipped_s=0.5))
    out, err = capsys.readouterr()
    assert report_s > 0
    assert ('"sent": 50' in out) == (mode == "json")
    assert ("50 sent" in err and "port unreachable (3 responses)" in err) == (mode in ("plain", "bar"))


def test_the_end_is_told():
    summary = run(FrameStream(FAULTS, UNPACED), Plan("127.0.0.1", 9, count=1000)) | {"refused": 2, "slipped_s": 1.5}
    text = summary_text(summary, "sent.klm")
    for words in (
        "1,000 frames in",
        "duplicate",
        "malformed:bad_json",
        "seed 3",
        "2 responses",
        "check --manifest sent.klm",
    ):
        assert words in text


def test_what_cannot_work_is_told_without_a_traceback(tmp_path):
    for options, code in (
        (["--to", "255.255.255.255:5000"], 1),
        (["--to", "127.0.0.1:9", "--manifest", str(tmp_path / "no" / "m")], 2),
    ):
        result = CliRunner().invoke(main, ["simulate", "--count", "1", *options])
        assert (result.exit_code, type(result.exception)) == (code, SystemExit)
        assert "klais: cannot send" in result.output or "cannot be written: there is no folder" in result.output


@pytest.mark.parametrize("text", ["5000", "host:", "host:0", "host:70000", "host:abc"])
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError, match="host:port"):
        destination(text)


def test_the_command(tmp_path):
    receiver = _Receiver(500)
    command = ["simulate", "--devices", "7", "--rate", "20000", "--count", "500", "--seed", "3", "--json"]
    command += ["--to", f"127.0.0.1:{receiver.port}", "--manifest", str(tmp_path / "m"), "--duplicates", "0.1"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert len(receiver.join()) == 500
    summary = json.loads(result.stdout)
    assert (summary["frames"], summary["devices"], summary["seed"]) == (500, 7, 3)
    shown = json.loads(CliRunner().invoke(main, ["simulate", "show", "--manifest", str(tmp_path / "m")]).stdout)
    assert shown["frames"] == 500 and shown["complete"] and shown["kinds"] == summary["kinds"]


@pytest.mark.parametrize(
    "options, words",
    [
        (["--rate", "0"], "not a rate"),
        (["--rate", "5", "--trace", "nasa"], "mutually exclusive"),
        (["--speed", "2"], "need --trace"),
        (["--for", "3 weeks"], "not a duration"),
        (["--to", "nowhere"], "host:port"),
        (["--reorder", "0.7"], "0<=x<=0.5"),
        (["--trace", "nasa", "--speed", "0"], "x>0"),
    ],
)
def test_wrong_options_are_usage_errors(options, words):
    result = CliRunner().invoke(main, ["simulate", *options])
    assert result.exit_code == 2
    assert words in result.output
