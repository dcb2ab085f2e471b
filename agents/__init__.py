"""The Faust application, thin: what imports Faust. The work itself is in :mod:`klais.worker`, :mod:`klais.core` and
others."""
