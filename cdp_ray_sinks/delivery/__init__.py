"""What stands around a sink and in front of it: lanes, producers, dead letters."""
