"""Limits failed logins of each client, to prevent guessing of tokens."""

from collections import OrderedDict

from klais.http.addresses import bucket_of, parse_ip
from klais.http.errors import HttpError

MAX_FAILED_LOGINS = 5
PERIOD_S = 60.0
_KEPT = 4096


class FailedLogins:
    """Refuses a client that failed five times within a minute."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, list[float]] = OrderedDict()

    def check(self, client: str, now_s: float) -> None:
        """Return if ``client`` may try at ``now_s``.

        Raises
        ------
        HttpError
            429, if it may not.
        """
        times = self._times.get(bucket_of(parse_ip(client)), [])
        if sum(now_s - at_s < PERIOD_S for at_s in times) >= MAX_FAILED_LOGINS:
            text = f"{MAX_FAILED_LOGINS} logins failed within a minute: wait a minute"
            raise HttpError(429, "too_many_requests", text)

    def failed(self, client: str, now_s: float) -> None:
        """Count a failed login."""
        key = bucket_of(parse_ip(client))
        times = [at_s for at_s in self._times.pop(key, []) if now_s - at_s < PERIOD_S]
        self._times[key] = [*times, now_s]
        if len(self._times) > _KEPT:
            self._times.popitem(last=False)
