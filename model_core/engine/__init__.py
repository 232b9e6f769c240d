"""The engine: what only serving needs to turn a prompt into an answer.

`engine` prefills and decodes, `request` has its requests and events, `sampling_params` and `sampler` choose tokens,
`detokenizer` turns them into text, `prefix_cache` saves the prefill of prompts that begin alike.
"""
