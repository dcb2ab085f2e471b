"""Faust's web server with bounded connections: the application stays Faust's, only who listens is ours.

Tied to Faust 0.15 (``faust.web.drivers.aiohttp``): the app makes its server in ``_new_web``, and the server is started and
stopped by ``start_server`` and ``stop_server``.
"""

from typing import Any

from faust.web.drivers import aiohttp as driver

from klais.http.connections import ConnectionLimits, Listener


class BoundedWeb(driver.Web):
    """Listens on ``web_bind`` and ``web_port`` of the app's configuration."""

    def __init__(self, app: Any, limits: ConnectionLimits) -> None:
        super().__init__(app)
        self.listener = Listener(self.web_app, app.conf.web_bind, app.conf.web_port, limits)

    async def start_server(self) -> None:
        """Listen."""
        await self.listener.start()

    async def stop_server(self) -> None:
        """Close the port and all connections; answers that are under way have a second."""
        await self.listener.stop()
