"""JSON Schemas of the topics with JSON values, generated from models: ``python -m klais.schemas docs``."""
