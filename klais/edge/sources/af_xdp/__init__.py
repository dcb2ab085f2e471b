"""The ``af_xdp`` source: AF_XDP sockets behind the XDP filter."""
