"""The engine: continuous batching over a paged key-value cache whose length shrinks from block to block.

`language_model` turns conversations into requests; `engine` runs them, step by step: `scheduler` chooses what a step
computes (`batch`), `runner` computes it, `sampler` chooses tokens, `detokenizer` turns them into text. Memory:
`page_pool` allocates pages, `page_table` has those of a sequence, `prefix_cache` shares them between sequences.
docs/engine.md explains the design.
"""
