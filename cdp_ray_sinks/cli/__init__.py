"""The command line: `cdp-sinks`, the same as `python -m cdp_ray_sinks`."""
