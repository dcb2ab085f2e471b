"""Dead letters back to ``klais_raw``: which may go, in which batches, and the ledger that lets each go once."""
