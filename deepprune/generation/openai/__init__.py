"""`engine=openai`: a backend over any OpenAI-compatible server."""
