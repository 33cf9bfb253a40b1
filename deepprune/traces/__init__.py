"""Recorded traces: the store and its schema, importers, the bundled pool.

from deepprune.traces import open_traces, summarise

store = open_traces("pool")                 # or a store folder, a .parquet, .jsonl or .json file
for group in store.load():                  # the traces of one question and model
    print(group.question.text, len(group.traces))
print(summarise(store))
"""

from deepprune.traces.opening import open_traces
from deepprune.traces.store import TraceStore
from deepprune.traces.summary import summarise

__all__ = ["TraceStore", "open_traces", "summarise"]
