"""One policy per file, with its reference and the departures from it."""
