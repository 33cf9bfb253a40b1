"""Types, protocols, errors, files, seeding and statistics, used by every package; no torch."""
