"""Files that name the same thing in several places agree; the compose file is YAML that says what it should."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from packaging.requirements import Requirement

from klais.broker.jars import kafka_version
from klais.cli.main import COMMANDS
from klais.config.load import Settings
from klais.jit.library import SHIPPED
from klais.kafka.topics import MAX_RECORD_BYTES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def test_compose_runs_the_kafka_that_is_tested(compose: dict[str, Any]) -> None:
    kafka = compose["services"]["kafka"]
    assert kafka["image"] == f"apache/kafka:{kafka_version()}"
    assert int(kafka["environment"]["KAFKA_MESSAGE_MAX_BYTES"]) == MAX_RECORD_BYTES
    assert kafka["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_compose_calls_commands_and_settings_that_exist(compose: dict[str, Any]) -> None:
    ours = {name: compose["services"][name] for name in ("topics", "edge", "worker")}
    assert set(compose["services"]) == set(ours) | {"kafka", "prometheus", "grafana"}
    for service in ours.values():
        assert service["command"][0] in COMMANDS
        unknown = {name for name in service["environment"] if name[6:].lower() not in Settings.model_fields}
        assert not unknown
    assert ours["edge"]["environment"]["KLAIS_KAFKA_BOOTSTRAP"] == "kafka:9092"


def test_composed_processes_have_few_rights_and_bounds(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] > 0 and service["mem_limit"], name
        if name != "kafka":
            assert service["read_only"] is True and service["tmpfs"] == ["/tmp"], name


def test_what_composed_processes_write_is_in_volumes_of_their_own(compose: dict[str, Any]) -> None:
    used = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    names = [volume.partition(":")[0] for volume in used if not volume.startswith("./")]
    assert len(names) == len(set(names)) and set(names) == set(compose["volumes"])
    for name in ("edge", "worker"):
        folders = {volume.split(":")[1] for volume in compose["services"][name]["volumes"]}
        assert folders == {"/var/lib/klais", "/var/cache/klais"}, name


def test_the_compose_file_is_one_by_the_compose_specifications_schema(compose: dict[str, Any]) -> None:
    """The schema is that of the Compose Specification (Apache-2.0), as published on 2026-06-23."""
    schema = json.loads((ROOT / "tests" / "support" / "compose-spec.json").read_text())
    jsonschema_rs.validate(schema, compose)
    wrong = compose | {"services": compose["services"] | {"edge": {"mem_limits": "2g"}}}
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(schema, wrong)


def test_composed_processes_are_probed_without_asking_kafka(compose: dict[str, Any]) -> None:
    for name, port in (("edge", 8080), ("worker", 6066)):
        assert f"127.0.0.1:{port}/livez" in compose["services"][name]["healthcheck"]["test"][-1]


def test_what_is_provisioned_exists_is_read_only_and_fits_together(compose: dict[str, Any]) -> None:
    services = compose["services"]
    bound = {}
    for name in ("prometheus", "grafana"):
        for volume in services[name]["volumes"]:
            source, target, *mode = volume.split(":")
            if source.startswith("./"):
                assert mode == ["ro"] and (ROOT / source).exists(), volume
                bound[target] = ROOT / source
        assert all(port.startswith("127.0.0.1:") for port in services[name]["ports"]), name
    scraped = yaml.safe_load((bound["/etc/prometheus"] / "prometheus.yml").read_text())
    targets = {job["job_name"]: job["dns_sd_configs"][0] for job in scraped["scrape_configs"]}
    assert {job: (at["names"], at["port"]) for job, at in targets.items()} == {
        "klais-edge": (["edge"], 8080),
        "klais-worker": (["worker"], int(services["worker"]["environment"]["KLAIS_WEB_PORT"])),
    }
    assert all((bound["/etc/prometheus"] / name).is_file() for name in scraped["rule_files"])
    source = yaml.safe_load(bound["/etc/grafana/provisioning/datasources/klais.yml"].read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090" and source["type"] == "prometheus"
    provider = yaml.safe_load(bound["/etc/grafana/provisioning/dashboards/klais.yml"].read_text())["providers"][0]
    assert (bound[provider["options"]["path"]] / "klais-pipeline.json").is_file()
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(f"{provider['options']['path']}/")


def test_both_stages_of_the_image_come_from_one_base_that_may_be_named_by_digest() -> None:
    lines = (ROOT / "docker" / "Dockerfile").read_text().splitlines()
    stages = [line for line in lines if line.startswith("FROM")]
    assert stages == ["FROM ${PYTHON_IMAGE} AS build", "FROM ${PYTHON_IMAGE}"]
    assert any(line.startswith("ARG PYTHON_IMAGE=python:") for line in lines[: lines.index(stages[0])])


def test_the_lock_has_every_package_of_the_project_with_its_hash_and_names_no_index() -> None:
    text = (ROOT / "requirements.lock").read_text()
    entries = [entry for entry in text.replace("\\\n", " ").splitlines() if not entry.startswith("#")]
    pinned = dict(entry.split()[0].split("==") for entry in entries)
    assert all(re.fullmatch(r"\S+==\S+ +--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for requirement in map(Requirement, [*wanted, "setuptools>=69"]):  # the image builds klais without isolation
        assert requirement.specifier.contains(pinned[requirement.name]), requirement
    assert "://" not in text


def test_setup_and_image_take_no_package_without_its_hash() -> None:
    """Where the lock has files for the machine, see the branches of both scripts."""
    for name in ("bin/setup", "docker/Dockerfile"):
        lines = (ROOT / name).read_text().replace("\\\n", " ").splitlines()
        calls = [line for line in lines if re.search(r"pip[ _]install.* (-r|-e|\.)", line)]
        assert any("--require-hashes" in line and "--only-binary=:all:" in line for line in calls), name
        assert any("--no-deps --no-build-isolation" in line for line in calls), name


def test_the_lock_of_development_has_every_package_with_hashes_and_agrees_with_the_images() -> None:
    text = (ROOT / "requirements-dev.lock").read_text()
    entries = [entry for entry in text.replace("\\\n", " ").splitlines() if not entry.startswith("#")]
    pinned = dict(entry.split()[0].split("==") for entry in entries)
    assert all(re.fullmatch(r"\S+==\S+( +--hash=sha256:[0-9a-f]{64})+", entry) for entry in entries)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in map(Requirement, [*project["dependencies"], *project["optional-dependencies"]["dev"]]):
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), requirement
    image = dict(re.findall(r"^(\S+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.M))
    assert {name: pinned[name] for name in image if name in pinned} == {n: v for n, v in image.items() if n in pinned}
    assert "://" not in text


def test_setup_takes_the_pythons_that_the_package_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "bin" / "setup").read_text()
    low, below = (re.search(rf"^{name}=(.+)$", text, re.M) for name in ("MIN_PYTHON", "BELOW_PYTHON"))
    assert low and below
    assert project["requires-python"] == f">={low.group(1)},<{below.group(1)}"


@pytest.mark.parametrize("name", ["bin/setup", ".ci/run"])
def test_scripts_are_executable_and_parse(name: str) -> None:
    path = ROOT / name
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)


def setup_functions(folder: Path, then: str) -> subprocess.CompletedProcess[str]:
    """Run ``then`` with the functions of bin/setup, in a project that has no files but those that they read."""
    functions, found, _ = (ROOT / "bin" / "setup").read_text().partition("\ninstall_packages\n")
    assert found
    (folder / "bin").mkdir()
    (folder / "bin" / "setup").write_text(f"{functions}\n{then}\n")
    for name in ("pyproject.toml", "requirements-dev.lock"):
        (folder / name).touch()
    env = {"PATH": os.environ["PATH"], "PYTHON": sys._base_executable, "LC_ALL": "C"}  # type: ignore[attr-defined]
    command = ["bash", str(folder / "bin" / "setup")]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("state", ["interrupted", "moved", "complete"])
def test_setup_makes_a_venv_again_only_if_it_cannot_be_used(tmp_path: Path, state: str) -> None:
    venv = tmp_path / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    if state != "interrupted":
        (pip,) = venv.glob("lib/python*/site-packages")
        (pip / "pip.py").touch()
    (venv / "klais-setup.stamp").write_text(f"old  - {'/elsewhere' if state == 'moved' else tmp_path}")
    (venv / "before").touch()
    done = setup_functions(tmp_path, "install_python_packages() { :; }\nmake_venv")
    assert done.returncode == 0, done.stderr
    assert (venv / "before").exists() == (state == "complete")
    assert (venv / "klais-setup.stamp").read_text().endswith(f" {tmp_path}")


def test_setup_names_a_java_that_this_debian_has_to_an_ordinary_user(tmp_path: Path) -> None:
    fakes = "id() { echo 1000; }\napt-get() { :; }\nmissing_packages() { echo JAVA maven; }\n"
    fakes += 'apt-cache() { [ "$2" = openjdk-21-jre-headless ]; }\n'
    done = setup_functions(tmp_path, f"{fakes}install_packages")
    assert done.returncode == 1
    assert done.stderr.count("openjdk-21-jre-headless maven") == 2 and "openjdk-17" not in done.stderr


def test_setup_waits_for_another_program_that_installs_packages(tmp_path: Path) -> None:
    fakes = (
        'id() { echo 0; }\nmissing_packages() { echo maven; }\napt-get() { [ "$1" = update ] || echo "$*" >calls; }\n'
    )
    done = setup_functions(tmp_path, f"{fakes}install_packages")
    assert done.returncode == 0, done.stderr
    called = (tmp_path / "calls").read_text()
    assert called == "-o DPkg::Lock::Timeout=300 install -y --no-install-recommends maven\n"


def test_setup_finds_the_cache_without_home(tmp_path: Path) -> None:
    (tmp_path / "klais" / "broker").mkdir(parents=True)
    (tmp_path / "klais" / "broker" / "pom.xml").write_text("<kafka.version>0.0.0</kafka.version>")
    done = setup_functions(tmp_path, "has_jars || echo none")
    assert (done.returncode, done.stdout, done.stderr) == (0, "none\n", "")


def test_the_image_has_the_kernels_where_no_volume_of_an_older_image_hides_them(compose: dict[str, Any]) -> None:
    text = (ROOT / "docker" / "Dockerfile").read_text()
    assert f'cp -r /var/cache/klais/kernels "$jit/{SHIPPED.name}"' in text and SHIPPED.parent == Path("jit")
    assert f'chmod -R go+rX "$jit/{SHIPPED.name}"' in text, "the image's user is not the one that builds it"
    mounted = {volume.split(":")[1] for volume in compose["services"]["edge"]["volumes"]}
    assert "/var/cache/klais" in mounted and not any("jit" in place for place in mounted)
