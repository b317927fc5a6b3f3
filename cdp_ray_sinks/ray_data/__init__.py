"""Ray Data: datasets into pipelines, archives as datasets."""
