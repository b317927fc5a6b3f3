"""A pipeline of its own, faults at random instants, and what became of every event."""
