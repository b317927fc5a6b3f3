"""Readers of the wire schema, generated from schema.fbs; never edited."""
