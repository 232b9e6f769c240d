"""Audio: decoding in a stream, probing, encoding, voice activity, cuts into clips. Without torch but for `tensors`."""
