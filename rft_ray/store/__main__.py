"""`python -m rft_ray.store`: a door to `store_cli`."""

from rft_ray.store_cli import main

if __name__ == "__main__":
    raise SystemExit(main())
