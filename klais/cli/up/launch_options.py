"""Processes and ports of ``klais up``; the ports are checked before anything is started."""

from dataclasses import dataclass

from klais.broker.config import HOST
from klais.broker.daemon import RUN_COMMAND
from klais.broker.embedded import running_owner
from klais.config.load import Settings
from klais.errors import ConfigError, KlaisError, PortInUse
from klais.system.address import join_address, local_host, split_address
from klais.system.ports import Kind, check_port


@dataclass(frozen=True, slots=True)
class LaunchOptions:
    """The processes to start.

    ``duration_s`` counts from the time at which everything is ready; None = until Ctrl-C. ``rate`` (frames/s) replaces
    the recorded traffic. Worker i has the web port ``settings.web_port + i``.
    """

    settings: Settings
    duration_s: float | None = None
    simulate: bool = True
    devices: int = 1000
    rate: float | None = None
    workers: int = 1

    @property
    def web_ports(self) -> list[int]:
        """One port per worker."""
        return [self.settings.web_port + number for number in range(self.workers)]


@dataclass(frozen=True, slots=True)
class Port:
    """A port to listen on, and the setting that selects it."""

    host: str
    port: int
    kind: Kind
    setting: str
    host_setting: str = ""  # if another setting selects the address


def ports_of(options: LaunchOptions, own_broker: bool) -> list[Port]:
    """Every port that the children will bind."""
    s = options.settings
    out = [] if s.udp_share_port else [Port(*split_address(s.udp_bind), "udp", "KLAIS_UDP_BIND")]
    out.append(Port(*split_address(s.api_bind), "tcp", "KLAIS_API_BIND"))
    out += [Port(s.web_bind, port, "tcp", "KLAIS_WEB_PORT", "KLAIS_WEB_BIND") for port in options.web_ports]
    if own_broker:
        out.append(Port(HOST, s.kafka_port, "tcp", "KLAIS_KAFKA_PORT"))
    return out


def broker_runs(settings: Settings) -> bool:
    """Whether ``klais kafka start`` already runs the broker of these settings, so that it can be used.

    Raises
    ------
    klais.errors.BrokerOwned, klais.errors.KlaisError
        If another ``klais up`` owns this state folder, or its broker listens on another port.
    """
    if not settings.embedded_kafka:
        return False
    owner = running_owner(settings)
    if owner is None:
        return False
    folder = settings.state_dir.resolve()
    if owner.command != RUN_COMMAND:
        raise KlaisError(
            f"`{owner.command}` (pid {owner.pid}) already runs on the state folder {folder}, with its Kafka on "
            f"{owner.bootstrap}: stop it, or choose another folder with KLAIS_STATE_DIR (and other ports)"
        )
    if owner.bootstrap != settings.bootstrap:
        raise KlaisError(
            f"the broker of {folder} already runs on {owner.bootstrap} (`klais kafka start`), not on "
            f"{settings.bootstrap}: set KLAIS_KAFKA_PORT={owner.bootstrap.rpartition(':')[2]}, or `klais kafka stop`"
        )
    return True


def check_ports(ports: list[Port]) -> None:
    """Return if every port can be bound.

    Raises
    ------
    klais.errors.PortInUse
        With all problems, one line each: the port, the process that uses it, and the setting that selects it.
    """
    problems = []
    for number, entry in enumerate(ports):
        same = [other for other in ports[:number] if (other.port, other.kind) == (entry.port, entry.kind)]
        if same and entry.port:
            names = " and ".join(dict.fromkeys([same[0].setting, entry.setting]))
            problems.append(f"{entry.kind} port {entry.port} is used twice, by {names}: choose another for one of them")
            continue
        try:
            check_port(entry.host, entry.port, entry.kind, entry.setting, entry.host_setting)
        except (PortInUse, ConfigError) as error:
            problems.append(str(error))
    if problems:
        raise PortInUse("\n  ".join(problems if len(problems) == 1 else [f"{len(problems)} ports:", *problems]))


def udp_target(settings: Settings) -> str:
    """``host:port`` for frames from this machine."""
    host, port = split_address(settings.udp_bind)
    return join_address(local_host(host), port)
