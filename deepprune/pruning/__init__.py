"""Policies that stop redundant traces, with their clustering, voting, controller and replay.

Plain Python and NumPy: no torch, no vLLM. A policy is a frozen dataclass with a generator `run`
(see `deepprune.core.protocols.Policy`); `controller.run_question` drives it against a session.
"""
