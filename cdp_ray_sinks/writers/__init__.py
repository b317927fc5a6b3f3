"""How batches become the bytes of a file, and batches again."""
