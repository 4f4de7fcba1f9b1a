"""Generation: the reference loop, its events, and the verbs a user calls."""
