"""Redrive of dead letters to ``klais_raw``: their selection, their batches, and the ledger that sends each once."""
