"""/v1/audio: transcriptions, speech, and encoding of audio responses."""
