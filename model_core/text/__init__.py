"""Text: normalisation for speech, numbers in words, phonemes, clauses, and repetition that generation should stop."""
