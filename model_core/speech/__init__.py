"""Speech in (audio to speech tokens and transcripts) and speech out (text to audio)."""
