"""Metrics on texts, without a model: word error rate and the short-answer scores of published benchmarks."""
