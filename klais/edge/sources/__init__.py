"""Sources: where frames come from. :mod:`klais.edge.sources.base` is the contract, :mod:`.choose` opens one."""
