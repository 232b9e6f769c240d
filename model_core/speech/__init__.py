"""Speech models: clips to speech tokens and transcripts (Whisper, projectors), text or hidden states to speech (voices)."""
