"""The learned forecast: features of a window, models with their hashes, and the chain of fallbacks."""
