"""One policy a file, each with its reference and its departures."""
