"""Recorded traces: the store and its schema, importers, the bundled pool.

from deepprune.traces import open_traces, summarise

store = open_traces("pool")                 # or a store folder, a .parquet, .jsonl or .json file
for group in store.load(min_traces=16):     # the traces of one question and model
    print(group.question.text, len(group.traces))
print(summarise(store))
"""

from deepprune.traces.manifest import GENERATOR, SOURCE, Manifest, Part
from deepprune.traces.opening import cache_folder, open_traces
from deepprune.traces.schema import SCHEMA, SCHEMA_VERSION
from deepprune.traces.store import TraceStore
from deepprune.traces.summary import TraceSummary, plurality_accuracy, summarise
from deepprune.traces.tokens import token_ends

__all__ = [
    "GENERATOR",
    "SCHEMA",
    "SCHEMA_VERSION",
    "SOURCE",
    "Manifest",
    "Part",
    "TraceStore",
    "TraceSummary",
    "cache_folder",
    "open_traces",
    "plurality_accuracy",
    "summarise",
    "token_ends",
]
