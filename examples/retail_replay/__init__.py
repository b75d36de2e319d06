"""Replays a real shop's invoices against carts while their server is killed again and again."""
