"""What an LSTM does while it reads, shown."""
