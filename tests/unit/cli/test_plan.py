"""``klais plan`` prints each line with its formula, in every form."""

import json

from click.testing import CliRunner, Result

from klais.cli.main import main


def run(*words: str) -> Result:
    return CliRunner().invoke(main, ["plan", *words])


def test_a_table_with_formulas_and_where_the_costs_are_from() -> None:
    text = run("--devices", "1000", "--rate", "2000", "--replication", "1", "--explain").stdout
    assert "partitions" in text and "rate x worker_us + batches x worker_batch_us" in text
    assert "workers, cores: worker_us" in text


def test_json_has_unrounded_values_and_warnings() -> None:
    found = json.loads(run("--devices", "10000000", "--rate", "5e6", "-o", "json").stdout)
    assert {line["part"] for line in found["lines"]} == {"Kafka", "edges", "workers"}
    assert any("changelog" in text for text in found["warnings"])


def test_a_results_file_that_is_not_there_is_one_line() -> None:
    found = run("--devices", "1", "--rate", "1", "--results", "/nowhere.json")
    assert found.exit_code != 0 and "/nowhere.json" in found.output
