"""The gates of an LSTM in this package's order: input, forget, candidate, output."""

GATES = "ifgo"
