"""Puts this folder on the path, so that these tests share `tiny_models`."""
