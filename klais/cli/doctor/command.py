"""``klais doctor``: check this machine and suggest fixes."""

from dataclasses import asdict

import click

from klais.cli.doctor import checks as doctor_checks
from klais.cli.doctor.checks import Finding, run
from klais.cli.doctor.sources import check_sources
from klais.cli.errors import EXIT_ERROR
from klais.cli.printing import say, say_json, say_marked
from klais.config.load import Settings, load
from klais.errors import ConfigError

CHECKS = (*doctor_checks.CHECKS, check_sources)
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON array of name, status, found, fix.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check this machine: kernel, limits, folders, clock, ports, Java, Kafka, topics, XDP, sources.

    Changes nothing. Each line shows ok, warn or fail, the finding, and its fix. The exit code is 1 if a check failed:
    KLAIS would not start, or would lose data. A warning affects speed or safety.
    """
    findings = examine()
    failed = sum(finding.status == "fail" for finding in findings)
    warned = sum(finding.status == "warn" for finding in findings)
    if as_json:
        say_json([asdict(finding) for finding in findings], indent=2)
    else:
        say_findings(findings)
        say(f"{len(findings)} checks: {failed} failed, {warned} warnings")
    if failed:
        ctx.exit(EXIT_ERROR)


def say_findings(findings: list[Finding]) -> None:
    """Print the findings as text."""
    for finding in findings:
        say_marked(f"{finding.status:4}", _COLOURS[finding.status], f"  {finding.name}: {finding.found}")
        if finding.fix:
            say(f"      -> {finding.fix}")


def examine() -> list[Finding]:
    """All findings. Problems of an invalid configuration come first; the other checks then use the defaults."""
    findings = []
    try:
        settings = load()
    except ConfigError as error:
        settings = Settings()
        findings = [
            Finding("configuration", "fail", line, "the checks below use the defaults instead")
            for line in str(error).splitlines()
        ]
    for check in CHECKS:
        findings += run(check, settings)
    return findings
