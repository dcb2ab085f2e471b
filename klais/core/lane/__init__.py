"""The lane: one ordered state machine a partition. Pure: no clock, no I/O.

It decides, and says what to write down; acting on it is the shell's part (:mod:`klais.worker`).
"""
