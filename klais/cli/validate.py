"""``klais validate``: configuration, topics and machine in one go."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from klais.cli.doctor.checks import Finding
from klais.cli.doctor.command import examine, say_findings
from klais.cli.errors import EXIT_CONFIG, EXIT_ERROR
from klais.cli.printing import say, say_json, say_text
from klais.cli.settings import load
from klais.config.cross_checks import warnings
from klais.errors import ConfigError, KlaisError

if TYPE_CHECKING:
    from klais.config.load import Settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help='One JSON object: {"ok", "config", "topics", "doctor"}.')
@click.pass_context
def validate(ctx: click.Context, as_json: bool) -> None:
    """Check whether KLAIS would run here: the configuration, the topics on the cluster, this machine.

    The same as `klais config check`, `klais topics check` and `klais doctor`; changes nothing. Exit code 0 when all is
    right, 2 when the configuration cannot be used, 1 when something else fails. Warnings change nothing.

    \b
    Examples:
      klais validate && systemctl restart klais-edge
      klais validate --json | jq .topics.mismatches
    """
    config, settings = _config()
    topics = _topics(settings) if settings else _unchecked(False, "the configuration is refused")
    findings = [finding for finding in examine() if finding.name != "configuration"]
    failed = any(finding.status == "fail" for finding in findings)
    ok = config["ok"] and topics["ok"] and not failed
    if as_json:
        doctor = {"ok": not failed, "findings": [asdict(finding) for finding in findings]}
        say_json({"ok": ok, "config": config, "topics": topics, "doctor": doctor})
    else:
        _show(config, topics, findings)
        say("ok: KLAIS would run here" if ok else "not ok: see above")
    if not ok:
        ctx.exit(EXIT_ERROR if config["ok"] else EXIT_CONFIG)


def _config() -> tuple[dict[str, Any], "Settings | None"]:
    try:
        settings = load()
    except ConfigError as error:
        return {"ok": False, "problems": str(error).splitlines(), "warnings": []}, None
    return {"ok": True, "problems": [], "warnings": warnings(settings)}, settings


def _topics(settings: "Settings") -> dict[str, Any]:
    from klais.kafka import admin
    from klais.kafka.probe import listens, need_kafka

    if settings.embedded_kafka and not listens(settings):
        return _unchecked(True, "the embedded broker is not running; `klais up` creates the topics")
    try:
        need_kafka(settings, patient=False)
        wrong = admin.check_topics(settings, admin.wait_for_broker(settings, 0))
    except KlaisError as error:
        return _unchecked(False, str(error))
    mismatches = [{"text": str(mismatch)} | asdict(mismatch) for mismatch in wrong]
    return {"ok": not wrong, "mismatches": mismatches, "unchecked": None}


def _unchecked(ok: bool, why: str) -> dict[str, Any]:
    return {"ok": ok, "mismatches": [], "unchecked": why}


def _show(config: dict[str, Any], topics: dict[str, Any], findings: list[Finding]) -> None:
    say("configuration: ok" if config["ok"] else f"configuration: {len(config['problems'])} problems")
    say(*(f"  fail: {problem}" for problem in config["problems"]))
    say(*(f"  warning: {note}" for note in config["warnings"]))
    if topics["unchecked"]:
        say_text(f"topics: not checked: {topics['unchecked']}")
    else:
        say("topics: ok" if topics["ok"] else "topics: not as they must be")
    for mismatch in topics["mismatches"]:
        say_text(f"  fail: {mismatch['text']}")
    say("machine:")
    say_findings(findings)
