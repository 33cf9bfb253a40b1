"""Measures policies and judges: the loop, the ledger, the statistics, the record on disk."""
