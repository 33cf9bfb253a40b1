"""Engines: where traces come from. `replay` serves recorded ones."""
