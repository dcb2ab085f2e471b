"""What ``klais/system/imports.py`` relies on: aiohttp asks ``ssl`` for its client's contexts while it is imported."""

import gc
import ssl
import subprocess
import sys

from klais.system.imports import large_imports


def test_aiohttp_trusts_no_authority_and_checks_certificates() -> None:
    code = (
        "from klais.system.imports import large_imports\n"
        "with large_imports():\n"
        "    from aiohttp import connector\n"
        "context = connector._SSL_CONTEXT_VERIFIED\n"
        "print(context.cert_store_stats()['x509'], context.verify_mode.name, context.check_hostname)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "CERT_REQUIRED", "True"]


def test_contexts_and_the_collector_are_as_before_afterwards() -> None:
    make = ssl.create_default_context
    assert gc.isenabled()
    with large_imports():
        assert not gc.isenabled()
    assert gc.isenabled() and ssl.create_default_context is make
