"""``klais explain``: an incident in plain language."""

import json
import sys
from typing import Any

import click

from klais.cli.printing import say, say_json
from klais.cli.settings import load
from klais.cli.views import URL, WorkerViews
from klais.errors import ConfigError

EXAMPLE = '{"devices": 40, "feature": "interval", "seen": 12.5, "expected": 60, "since": "09:41:12"}'


@click.command()
@click.argument("facts", metavar="INCIDENT|FILE")
@URL
@click.option("--json", "as_json", is_flag=True, help="Text, who wrote it and why as one JSON object.")
def explain(facts: str, url: str | None, as_json: bool) -> None:
    """Explain an incident: by its id, or by its facts in FILE (- = standard input), one JSON object.

    Every number and name of the text is from the facts. Where no language model answers, or it says anything else, a
    template writes the text, and stderr says why.

    \b
    Examples:
      klais explain i-0123456789
      echo '{"devices": 40, "feature": "t", "seen": 12.5, "expected": 60}' |
        klais explain -
    """
    from klais.core.incidents.incident import facts as facts_of
    from klais.core.incidents.incident import is_id
    from klais.language.explain import explain as run
    from klais.language.explain import open_model

    given = facts_of(WorkerViews.of(url).incident(facts)) if is_id(facts) else _read(facts)
    model, name, why = open_model(load())
    try:
        found = run(given, model, name)
    finally:
        if model is not None:
            model.close()
    if as_json:
        say_json({"text": found.text, "by": found.by, "why": found.why or why})
        return
    if found.by == "template":
        say(f"klais: written by the template: {why or found.why}", err=True)
    say(found.text)


def _read(path: str) -> dict[str, Any]:
    try:
        if path == "-":
            text = sys.stdin.read()
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        found = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"the facts in {path!r} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"the facts in {path!r} must be one JSON object, such as {EXAMPLE}")
    return found
