"""The lane: one ordered state machine for each partition. Pure: no clock, no I/O.

It decides and produces the records to write; :mod:`klais.worker` writes them and acts on the decisions.
"""
