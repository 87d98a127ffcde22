"""Music as data: tunes, their files, and their encodings for a network."""
