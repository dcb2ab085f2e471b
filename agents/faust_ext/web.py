"""Faust's web server with bounded connections: the application is Faust's, only the listener is replaced.

This depends on Faust 0.15: the app creates its server in ``_new_web`` and calls ``start_server`` and ``stop_server``.
"""

from typing import Any

import faust
from faust.web.drivers import aiohttp as driver

from klais.http.connections import ConnectionLimits, Listener


class BoundedWeb(driver.Web):
    """Listens on ``web_bind`` and ``web_port`` of the app's configuration."""

    def __init__(self, app: Any, limits: ConnectionLimits) -> None:
        super().__init__(app)
        self._limits = limits
        self.listener: Listener | None = None

    async def start_server(self) -> None:
        """Listen on the address that is in force now, because an option of ``faust worker`` may have changed it."""
        self.listener = Listener(self.web_app, self.app.conf.web_bind, self.app.conf.web_port, self._limits)
        await self.listener.start()

    async def stop_server(self) -> None:
        """Close the port and all connections; running responses have one second."""
        if self.listener is not None:
            await self.listener.stop()


class App(faust.App):
    """A Faust app whose web server has bounded connections.

    Parameters
    ----------
    web_limits : ConnectionLimits
        Limits of the web server.
    """

    def __init__(self, *args: Any, web_limits: ConnectionLimits, **kwargs: Any) -> None:
        self._web_limits = web_limits
        super().__init__(*args, **kwargs)

    def _new_web(self) -> BoundedWeb:
        return BoundedWeb(self, self._web_limits)
