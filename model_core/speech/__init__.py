"""Speech models: clips to speech tokens and transcripts (Whisper, projectors), answers to speech (voices)."""
