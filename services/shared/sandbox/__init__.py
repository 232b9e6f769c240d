"""Media of users are decoded in processes of their own, a fresh one for each file: what dies there harms one request.

`Decoders` is what services use. It keeps a zygote, a small process that has imported the decoders once; each file gets
a child forked from it, which may compute, read that file and answer, and nothing else.
"""
