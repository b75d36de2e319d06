"""Perdure measured against what people use today. Start with `scripts/bench --help`."""
