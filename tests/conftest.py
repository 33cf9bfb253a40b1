"""Puts this folder on the path, so that tests share `builders`."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # one core for each, before anything imports torch
    os.environ.setdefault("OMP_NUM_THREADS", "1")
