"""Benchmarks: word error rate, visual and factual questions, needles, spoken answers, throughput, parity.

A `Subject` (a preset in this process, or a running gateway) answers questions; each benchmark scores its predictions.
"""
