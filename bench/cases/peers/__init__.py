"""KLAIS beside other gateways and stream processors, in one run: ``python -m bench peers``."""
