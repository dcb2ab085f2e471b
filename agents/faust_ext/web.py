"""Faust's web server with bounded connections: the application stays Faust's, only who listens is ours.

Tied to Faust 0.15: the app makes its server in ``_new_web`` and calls its ``start_server`` and ``stop_server``.
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
        """Listen, on what an option of ``faust worker`` may have named since the app was made."""
        self.listener = Listener(self.web_app, self.app.conf.web_bind, self.app.conf.web_port, self._limits)
        await self.listener.start()

    async def stop_server(self) -> None:
        """Close the port and all connections; answers that are under way have a second."""
        if self.listener is not None:
            await self.listener.stop()


class App(faust.App):
    """A Faust app whose web server has bounded connections.

    Parameters
    ----------
    web_limits : ConnectionLimits
        Bounds of the web server.
    """

    def __init__(self, *args: Any, web_limits: ConnectionLimits, **kwargs: Any) -> None:
        self._web_limits = web_limits
        super().__init__(*args, **kwargs)

    def _new_web(self) -> BoundedWeb:
        return BoundedWeb(self, self._web_limits)
