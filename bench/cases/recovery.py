"""From the start of a worker, after a kill -9 of its predecessor, until all lanes are live with a million devices."""

from bench.harness import Bench, BenchFailed
from bench.harness.million import DEVICES, million
from bench.harness.report import Result


def run(bench: Bench) -> Result:
    """Run the benchmark that the module describes."""
    result = Result("recovery")
    found = million(bench)
    if found["recovered_devices"] != DEVICES:
        raise BenchFailed(f"{found['recovered_devices']:,} of {DEVICES:,} devices came back")
    names = (
        "seconds",
        "seconds_after_clean_stop",
        "process_up_s",
        "recovery_cpu_s",
        "changelog_rows",
        "recovered_devices",
    )
    result.figures = {name: round(found[name], 2) for name in names}
    result.notes.append(
        "seconds: the group waits for the killed member's session to expire (10 s by default) within them"
    )
    return result
