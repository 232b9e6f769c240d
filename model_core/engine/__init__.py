"""The engine: what only serving needs to turn a prompt into an answer: steps, sampling, the prefix cache."""
