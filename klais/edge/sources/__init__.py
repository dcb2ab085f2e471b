"""The sources of frames. :mod:`klais.edge.sources.base` is the contract, :mod:`.choose` opens one."""
