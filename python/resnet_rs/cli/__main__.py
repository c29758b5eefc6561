"""`python -m resnet_rs.cli`: the same as `python -m resnet_rs`."""

from . import main

if __name__ == "__main__":
    raise SystemExit(main())
