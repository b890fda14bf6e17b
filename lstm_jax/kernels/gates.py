"""The gates of an LSTM, in the order in which this package has them: input, forget, candidate, output."""

GATES = "ifgo"
