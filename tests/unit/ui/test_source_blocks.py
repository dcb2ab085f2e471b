"""Blocks of source addresses in ``/api/v1``: the record that is written, and how many there may be."""

from klais.control.source_blocks import MAX_BLOCKED_SOURCES
from tests.unit.ui.test_server import WHY, client, serve

__all__ = ["client", "serve"]  # fixtures


async def test_a_source_is_blocked_by_its_prefix_in_the_path(serve, client) -> None:
    server = await serve()
    for path, scope in (
        ("192.0.2.0%2F24", "source/192.0.2.0/24"),
        ("192.0.2.7", "source/192.0.2.7/32"),
        ("2001:DB8::%2F32", "source/2001:db8::/32"),
    ):
        url = f"{server.url}/api/v1/sources/{path}/block"
        async with client.put(url, json=WHY | {"for_s": 600}) as answer:
            body = await answer.json()
            assert answer.status == 200 and body["scope"] == scope and body["after"]["block"] is True, body
        assert scope in [f"source/{network}" for network in server.control.blocked_sources_in_force()]
        async with client.delete(url, json=WHY) as answer:
            assert (await answer.json())["after"]["unblock"] is True
        assert server.control.blocked_sources() == {}
    assert all(record["author"] == "ops" and address for _, record, _, address in server.written.records)


async def test_blocked_sources_are_bounded(serve, client) -> None:
    server = await serve()
    for n in range(MAX_BLOCKED_SOURCES):
        server.control.consume(f"source/10.{n >> 8}.{n & 255}.0/24", b'{"block":true}')
    async with client.put(server.url + "/api/v1/sources/192.0.2.7/block", json=WHY) as answer:
        found = await answer.json()
        assert (answer.status, found["code"], found["details"]["maximum"]) == (422, "too_many_blocks", 4096), found
    async with client.put(server.url + "/api/v1/sources/10.0.0.0%2F24/block", json=WHY) as answer:
        assert answer.status == 200
    assert [scope for scope, *_ in server.written.records] == ["source/10.0.0.0/24"]
