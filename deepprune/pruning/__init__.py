"""Policies that stop redundant traces, and what they are made of: clustering, voting, the loop.

Plain Python and NumPy: no torch, no vLLM. A policy is a frozen dataclass with a generator `run`
(see `deepprune.core.protocols.Policy`); `controller.run_question` drives it against a session.
"""
