"""Where a batch goes: one module per sink, and the registry that names them."""
