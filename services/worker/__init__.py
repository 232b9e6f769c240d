"""Workers of long-audio jobs: plan recordings, transcribe clips, answer questions, and recover stalled jobs."""
