"""The wire contract, generated from proto/dotmax/v1."""
