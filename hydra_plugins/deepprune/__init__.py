"""Hydra finds launchers and sweepers in packages of this name; see conf/hydra/."""
