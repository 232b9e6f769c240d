"""Workers: they plan recordings, have clips heard, answer from what was heard, and look after jobs that stalled."""
