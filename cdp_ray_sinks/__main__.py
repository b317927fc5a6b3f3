"""`python -m cdp_ray_sinks` is `cdp-sinks`."""

from __future__ import annotations

from cdp_ray_sinks.cli.main import main

if __name__ == "__main__":
    main()
