"""Measures of judges: scored pairs, metrics, intervals, the matrix, comparisons of runs."""
