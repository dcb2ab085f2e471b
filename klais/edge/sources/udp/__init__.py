"""The ``udp`` source: ``recvmmsg`` on a plain socket."""
