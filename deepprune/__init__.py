"""Train and measure judges that stop redundant chains of thought (DeepPrune, arXiv 2510.08483)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepprune.core.protocols import Policy
    from deepprune.evaluation.watcher import Watcher
    from deepprune.judge.base import Judge
    from deepprune.judge.loading import load_judge
    from deepprune.traces import TraceStore, open_traces, summarise

__version__ = "0.2.0"
__all__ = ["Judge", "Policy", "TraceStore", "Watcher", "load_judge", "open_traces", "summarise"]

_HOMES = {
    "Judge": "judge.base",
    "Policy": "core.protocols",
    "Watcher": "evaluation.watcher",
    "load_judge": "judge.loading",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'deepprune' has no attribute {name!r}")
    return getattr(import_module(f"deepprune.{_HOMES.get(name, 'traces')}"), name)
