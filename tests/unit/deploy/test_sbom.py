"""The bill of materials names everything that the image installs, once, with the hashes of the lists."""

import json
import re

from deploy.sbom import JARS, LOCK, VENDORED, bill


def test_every_line_of_the_lists_is_a_component_with_its_hash() -> None:
    parts = bill()["components"]
    hashes = {each["content"] for part in parts for each in part.get("hashes", ())}
    hashes |= {each["content"] for part in parts for file in part.get("components", ()) for each in file["hashes"]}
    lock, jars = LOCK.read_text(), JARS.read_text()
    assert hashes >= set(re.findall(r"sha256:([0-9a-f]+)", lock))
    assert hashes >= set(re.findall(r"^[0-9a-f]{128}", jars, re.MULTILINE))
    assert hashes >= {file["sha256"] for file in json.loads(VENDORED.read_text()).values()}
    named = {(part["name"], part["version"]) for part in parts if part["purl"].startswith("pkg:pypi/")}
    assert named == set(re.findall(r"^([^\s#=]+)==(\S+)", lock, re.MULTILINE)) and len(named) > 30


def test_references_are_unique_and_all_are_dependencies() -> None:
    found = bill()
    refs = [part["bom-ref"] for part in found["components"]]
    assert len(set(refs)) == len(refs) == len(found["dependencies"][0]["dependsOn"])
    assert json.dumps(bill()) == json.dumps(found)
