"""Where batches come from: one module per source type, plain classes without Ray."""
