"""What every package builds on: types, protocols, errors, files, seeding, statistics; no torch."""
