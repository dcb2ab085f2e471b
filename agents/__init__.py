"""The Faust application: topics, table, agents, timers and web views around the cores of :mod:`klais`."""
