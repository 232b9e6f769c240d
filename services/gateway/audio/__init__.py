"""/v1/audio: transcriptions, speech, and the formats of audio that answers come in."""
