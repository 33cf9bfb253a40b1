"""Schemas of the configuration, and the only module that turns it into objects (`build`)."""
