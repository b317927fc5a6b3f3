"""Where bytes rest: partitions, segments, commit indexes, chains, archives."""
