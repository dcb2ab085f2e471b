"""What KLAIS says about itself: logs, metrics, and the records on ``klais_stats``."""
