"""The rim where plain classes meet Ray; with `pipeline.py` the only room that imports it."""
