"""The Faust application: all modules that import Faust. The work is done in :mod:`klais.worker`, :mod:`klais.core` and
others."""
