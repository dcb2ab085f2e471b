"""Extensions and patches of Faust; COMPAT.md lists each with its reason, the upstream issue and its test."""

from agents.faust_ext.versions import assert_versions

assert_versions()  # before a module of this package imports a name that other versions do not have

from faust.stores import STORES  # noqa: E402
from faust.transport.drivers import TRANSPORTS  # noqa: E402

CONSUMER_SCHEME = "klais"
STORE_URL = "lane://"


def register() -> None:
    """Register the drivers in the tables that Faust's ``faust.transports`` and ``faust.stores`` entry points fill.

    It uses the tables instead of entry points of the distribution, so that a checkout without installation also works.
    """
    TRANSPORTS[CONSUMER_SCHEME] = "agents.faust_ext.transport:Transport"
    STORES["lane"] = "agents.faust_ext.store:Store"
