"""``klais score``: the anomaly scorer on your own file, with a plot."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import click

from klais.cli.options import OUTPUT_FILE, Finite, write_output
from klais.cli.printing import say, say_json


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--tier", type=click.Choice(["light", "full"]), default="full", help="Tier of the scorer (full).")
@click.option("--threshold", type=Finite(0), default=None, help="Score from which a value is flagged (5).")
@click.option("--svg", type=OUTPUT_FILE, help="File for the plot. Default: FILE.svg.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per flag.")
def score(file: Path, tier: Literal["light", "full"], threshold: float | None, svg: Path | None, as_json: bool) -> None:
    """Score a series: FILE is CSV with the columns timestamp and value.

    Timestamps are seconds since the epoch or ISO 8601. It prints each flag of the values and of the intervals between
    rows with its explanation, and draws values, scores and flags as SVG.

    \b
    Example:
      klais score thermometer.csv
    """
    import numpy as np

    from klais.cli.plot import plot
    from klais.core.anomaly.channel import THRESHOLD
    from klais.core.anomaly.samples import read_samples
    from klais.core.anomaly.series import facts_of_flags, score_series

    out = svg or file.with_suffix(".svg")
    if out.exists() and out.samefile(file):
        raise click.UsageError(f"the plot would overwrite {file}: name another file with --svg")
    with file.open(encoding="utf-8", errors="replace") as lines:
        samples = read_samples(lines)
    found = score_series(samples.t, samples.x, tier, threshold=threshold or THRESHOLD)
    flags = facts_of_flags(samples, found)
    for at_s, facts in flags:
        _print(at_s, facts, as_json)
    marks = np.array([at_s for at_s, _ in flags])
    drawn = plot(file.name, samples.t, samples.x, found["score"], marks, threshold or THRESHOLD)
    write_output(out, drawn)
    if not as_json:
        say(f"{len(samples.t)} rows, {len(flags)} flags; plot: {out}")


def _print(at_s: float, facts: Any, as_json: bool) -> None:
    from klais.core.anomaly.explain import explain

    if as_json:
        body = {"ts": round(at_s * 1000), "cause": facts.kind.name.lower(), "score": round(facts.score, 3)}
        say_json(body | {"value": facts.value, "expected": facts.expected, "explanation": explain(facts)})
    else:
        at = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds")
        say(f"{at}  {explain(facts)}")
