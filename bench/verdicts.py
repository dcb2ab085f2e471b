"""The verdict on each must, at the end of a run: also on those of benchmarks that failed or cannot run here."""

from collections.abc import Iterable, Mapping, Sequence

from bench.harness.report import TARGETS, Result, Target, shown


def verdicts(
    names: Iterable[str], results: Sequence[Result], skipped: Mapping[str, str], failed: Mapping[str, str]
) -> list[str]:
    """A line for each must of the named benchmarks, then one for each that has no figures, with the reason.

    Parameters
    ----------
    names : iterable of str
        Benchmarks that were asked for.
    results : sequence of Result
        Those that have figures.
    skipped, failed : mapping of str to str
        Reason by benchmark: what it needs on this machine, or what went wrong.
    """
    figures = {result.name: result.figures for result in results}
    lines, met, missed, unknown = [], 0, 0, 0
    for name in names:
        for target in (target for target in TARGETS.get(name, ()) if target.must is not None):
            value = figures.get(name, {}).get(target.figure)
            verdict = "not measured" if value is None else target.verdict(value)
            met += verdict in ("goal met", "must met")
            missed += verdict == "MUST MISSED"
            unknown += value is None
            lines.append(f"  {_bound(name, target):64} {'' if value is None else shown(value):>12}  {verdict}")
    if lines:
        lines = ["== verdicts ==", *lines, f"  {met} musts met, {missed} missed, {unknown} not measured"]
    for word, of in (("skipped", skipped), ("FAILED", failed)):
        lines += [f"  {name} {word}: {why.strip().splitlines()[-1] if why else why}" for name, why in of.items()]
    return lines


def _bound(name: str, target: Target) -> str:
    return f"{name}.{target.figure} {target.sense} {shown(target.must)} {target.unit}".rstrip()
