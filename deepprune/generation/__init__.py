"""Live engines (vLLM, OpenAI-compatible servers, scripted traces), the collector, question sets."""
