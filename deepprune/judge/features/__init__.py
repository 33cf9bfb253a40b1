"""Columns of numbers about a pair of prefixes."""
