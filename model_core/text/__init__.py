"""Text processing around speech: normalisation for TTS, numbers in words, phonemes, clauses, repetition.

Imports no torch.
"""
