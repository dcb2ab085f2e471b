"""``klais models``: train, evaluate, list and activate models."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from klais.cli.groups import SuggestingGroup
from klais.cli.options import SEED
from klais.cli.output import FORM, Column, writer
from klais.cli.printing import say, say_json
from klais.cli.settings import load
from klais.cli.waiting import notice_after

if TYPE_CHECKING:
    from klais.traffic.bases import Base

_COLUMNS = ("kind", "version", "active", "shipped", "judged")
WITHOUT = {
    "traffic": "rules are used",
    "fingerprint": "no device is flagged for its type",
    "language": "templates are used",
}
KINDS = tuple(WITHOUT)
KIND = click.option("--kind", type=click.Choice(KINDS), default="traffic", show_default=True, help="Kind of the model.")
TRACES = click.argument("traces", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.group(cls=SuggestingGroup)
def models() -> None:
    """Models of the traffic, of device types, and of language: data files with a card and hashes.

    Some are in the package. Others are trained by you, or by workers from frames of your devices (fingerprint).
    """


@models.command(name="list")
@click.option("--kind", type=click.Choice(KINDS), help="Only models of this kind.")
@FORM
def list_(kind: str | None, form: str) -> None:
    """List the models, the active one of each kind first; refused ones with the reason."""
    from klais.models.store import ModelStore

    store, kinds = ModelStore.of(load()), (kind,) if kind else KINDS
    found = [model for each in kinds for model in store.models(each)]
    rows = [
        {
            "kind": model.kind,
            "version": model.version,
            "active": model.active,
            "shipped": model.shipped,
            "folder": str(model.folder),
            "problem": model.check(),
            "test": (model.card.about.get("test") or {}) if model.card else {},
        }
        for model in found
    ]
    if form == "json":
        say_json(rows)
        return
    if rows or form != "table":
        judged = [row | {"judged": _judged(row["test"], str(row["problem"]))} for row in rows]
        writer(form, [Column(key) for key in _COLUMNS], _COLUMNS).write(rows if form == "jsonl" else judged)
    for each in kinds if form == "table" else ():
        if not any(model.kind == each for model in found):
            say(f"no model of kind {each}: {WITHOUT[each]}")


def _judged(test: Any, problem: str) -> str:
    """A model's problem, or its test result."""
    figures = test if isinstance(test, dict) else {}
    return problem or ", ".join(f"{name} {figures[name]}" for name in ("macro_f1", "accuracy") if name in figures)


@models.command()
@click.argument("version", required=False)
@KIND
def card(version: str | None, kind: str) -> None:
    """Print the card of a model (by default the active one) as JSON."""
    from klais.errors import ModelRefused
    from klais.models.store import ModelStore

    for model in ModelStore.of(load()).models(kind):
        if model.version == version or (version is None and model.active):
            if model.card is None:
                raise ModelRefused(model.problem)
            say_json(model.card.about, indent=1)
            return
    raise ModelRefused(f"no model {kind} {version or 'is active'}")


@models.command()
@click.argument("version")
@KIND
def activate(version: str, kind: str) -> None:
    """Activate a model; running workers load it within 5 s."""
    from klais.models.store import ModelStore

    model = ModelStore.of(load()).activate(kind, version)
    say(f"{model.version} is active")


@models.command()
@TRACES
@click.option("--seed", type=SEED, default=1, show_default=True, help="The same seed gives the same model.")
@click.option(
    "--episodes",
    type=click.IntRange(10, 100_000),
    default=4800,
    show_default=True,
    help="Number of intervals of 190 s for training.",
)
@click.option(
    "--max-bytes",
    type=click.IntRange(512 << 20, 1 << 40),
    default=4 << 30,
    show_default=True,
    help="Maximum address space of the training.",
)
@click.option("--activate", "make_active", is_flag=True, help="Activate it after the training.")
@click.option("--json", "as_json", is_flag=True, help="The card as one JSON object.")
def train(traces: Path | None, seed: int, episodes: int, max_bytes: int, make_active: bool, as_json: bool) -> None:
    """Train a model of the traffic at the lowest priority, from the shipped recording or from TRACES (*.csv of
    timestamp,count). It takes some minutes on one core and does not affect the data path."""
    from klais.errors import ModelNotWritten
    from klais.models.store import ModelStore
    from klais.system.processes import limit_memory, prefer_for_oom_kill
    from klais.traffic.training import lower_priority

    lower_priority()
    prefer_for_oom_kill(os.getpid())
    store = ModelStore.of(load())
    import sklearn.ensemble  # noqa: F401  # with too little memory, its import would fail with another error

    from klais.traffic.training import train as run

    try:
        limit_memory(max_bytes)
        bases = _bases(traces)
        made = run(
            bases, lambda name: store.new_folder("traffic", name), seed, episodes, lambda text: say(text, err=True)
        )
    except MemoryError:
        do = "raise --max-bytes, or train with fewer --episodes or shorter recordings"
        raise ModelNotWritten(f"the training needs more than {max_bytes:,} bytes of address space: {do}") from None
    if make_active:
        store.activate("traffic", made.version)
    if as_json:
        say_json(made.about)
    else:
        say(f"{made.version}{' is active' if make_active else ''}: macro-F1 {made.about['test']['macro_f1']}")


@models.command()
@click.argument("version", required=False)
@TRACES
@click.option("--seed", type=SEED, default=2, show_default=True, help="Seed of the evaluated windows.")
@click.option(
    "--episodes",
    type=click.IntRange(10, 100_000),
    default=200,
    show_default=True,
    help="Number of intervals of 190 s for the evaluation.",
)
def evaluate(version: str | None, traces: Path | None, seed: int, episodes: int) -> None:
    """Evaluate a model (by default the active one) on the later part of the recordings; prints JSON."""
    from klais.errors import ModelRefused
    from klais.models.store import ModelStore
    from klais.traffic.chain import trees_of
    from klais.traffic.training import judge, samples

    found = [m for m in ModelStore.of(load()).models("traffic") if m.version == version or (not version and m.active)]
    if not found:
        raise ModelRefused(f"no model traffic {version or 'is active'}")
    trees = trees_of(found[0])
    late = [base.part("test") for base in _bases(traces)]
    with notice_after(f"evaluating {episodes:,} intervals: some seconds per 100"):
        figures = judge(trees, samples(late, episodes, seed, test=True))
        held_out = judge(trees, samples(late, episodes // 2, seed, test=True, held_out=True))
    say_json({"version": found[0].version, "test": figures, "held_out_kinds": held_out}, indent=1)


def _bases(traces: Path | None) -> "list[Base]":
    from klais.traffic.bases import load_folder, shipped

    return shipped() if traces is None else load_folder(traces)
