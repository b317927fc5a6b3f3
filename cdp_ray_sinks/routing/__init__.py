"""Who gets a batch."""
