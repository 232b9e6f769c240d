"""Sound without torch: decoding in a stream, probing, voice activity, cuts into clips, joining of transcripts."""
