"""Decodes users' media in sandboxed processes, a new one for each file, so that a crash affects one request only.

Services use `Decoders`. It runs a zygote, a small process that has imported the decoders once, and forks a child from
it for each file. The child can compute, read that file and respond, and nothing else.
"""
