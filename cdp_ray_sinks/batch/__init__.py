"""What travels: messages, records, batches, and their decoding into columns."""
