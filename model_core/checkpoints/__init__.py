"""Where weights come from: packages pulled by exact version, converted once, cached and verified."""
