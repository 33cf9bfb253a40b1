"""How well judges tell pairs apart: scored pairs, metrics, intervals, reports, comparisons."""
