"""Audio files and samples: decoding, probing, encoding, voice activity, cutting into clips, joining transcripts.

Gateway and workers use this room, so it imports no torch; `tensors` alone does, for the models and training.
"""
